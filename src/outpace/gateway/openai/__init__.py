"""OpenAI's wire: bodies to values, errors and lists to bytes. Pure functions."""
