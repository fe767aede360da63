"""Code that only XLA's CPU backend needs."""
