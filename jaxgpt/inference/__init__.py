"""Continuing text: drawing a token, decoding with a cache, and the text around both."""
