"""Layer three, scheduling: which request goes where, and when. Pure policies."""
