"""The draw of a token in each slot, with settings that differ from row to row."""
