"""Restartable tasks, and the processes or the cluster that run them."""
