"""Repair of damaged text, and privacy."""
