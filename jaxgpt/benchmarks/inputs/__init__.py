"""Models, texts and datasets that the measures run on."""
