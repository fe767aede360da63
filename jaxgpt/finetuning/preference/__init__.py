"""Preferences: objectives that learn which of two answers is better, or whether one is good."""
