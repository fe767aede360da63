"""Other libraries on the same work, to compare with."""
