"""What a name stands for: a class in JSON, a variant, a package, a path that was meant."""
