"""What other libraries reach on the same work."""
