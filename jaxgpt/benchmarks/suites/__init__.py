"""Measures one after the other, for one kind of machine."""
