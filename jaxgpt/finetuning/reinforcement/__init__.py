"""Reinforcement: objectives that learn from answers of the model itself, which are checked."""
