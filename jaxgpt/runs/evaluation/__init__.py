"""Evaluation of a run: a checkpoint on held-out data, on tasks, and in lm-evaluation-harness."""
