"""Devices: the mesh they form and where each array lies on it. The only place that makes a mesh."""
