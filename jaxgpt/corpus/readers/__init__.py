"""Files to records: which files, their bytes, their formats."""
