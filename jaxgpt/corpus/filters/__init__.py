"""Quality filters of documents, one rule set per file; docs/filters.md explains each.

A rule set is a config with published thresholds, and `build()` makes the step that applies it.
"""
