"""Training recipes, compared by the loss that they reach."""
