"""Training: loss, optimiser, state, one step, the loop around it. Knows no text and no verbs."""
