"""Exact duplicates."""
