"""A run folder as one page to read: what is in it, its curves, and the page (run_report.py)."""
