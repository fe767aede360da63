"""Counts by source, and the log of documents that were dropped."""
