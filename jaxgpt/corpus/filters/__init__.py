"""Filters: which documents are good enough. One rule set a file; docs/filters.md explains each.

A rule set is a config with published thresholds, and `build()` makes the step that applies it.
"""
