"""Words, characters and scripts of many documents at once, as arrays."""
