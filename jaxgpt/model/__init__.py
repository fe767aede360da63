"""The model: pure functions of (parameters, tokens). Knows no optimiser, no data, no text.

Start reading at `gpt.py`; every other file holds one part that a config can choose or replace.
"""
