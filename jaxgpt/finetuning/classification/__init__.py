"""Classification: objectives that learn one label of each text, or several."""
