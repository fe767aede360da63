"""The form that an answer must have: grammars, JSON schemas, and calls of tools."""
