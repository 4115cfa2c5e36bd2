"""The OpenAI door: validates, admits, forwards and meters requests from a snapshot alone."""
