"""Finished datasets: index, listings, versions, inspect, export, import."""
