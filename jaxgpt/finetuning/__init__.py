"""Fine-tuning: examples from files, packed into rows, and the objectives that learn from them."""
