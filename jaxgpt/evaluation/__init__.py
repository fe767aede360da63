"""How good a model is: loss on whole splits (perplexity.py), a baseline to beat (ngram.py)."""
