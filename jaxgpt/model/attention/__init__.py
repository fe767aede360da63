"""The attention layer, its masks and cache, and a kernel a file."""
