"""Runs that begin with a checkpoint: their configs, and adapters."""
