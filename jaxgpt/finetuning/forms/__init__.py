"""Forms of rows: how the fields of a row become an example."""
