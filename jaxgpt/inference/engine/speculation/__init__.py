"""Ways to draft tokens: from the text itself, or by a smaller model."""
