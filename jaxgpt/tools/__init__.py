"""Verbs about datasets and measurements: `jaxgpt build-dataset`, and others."""
