"""Counts by source, the account of a dataset, and the log of documents that were dropped."""
