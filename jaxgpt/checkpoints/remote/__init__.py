"""Checkpoints at a URL."""
