"""Meaning of names: a class in JSON, a variant, a package, a path that was meant."""
