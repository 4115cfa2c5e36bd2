"""Layer one: candidates, predictions, choice and explanation."""
