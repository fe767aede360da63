"""Documents taken out of a finished dataset."""
