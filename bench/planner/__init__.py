"""How well the planner predicts what it has not seen."""
