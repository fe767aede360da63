"""Projections, norms, positions, feed-forward layers, and where arrays lie."""
