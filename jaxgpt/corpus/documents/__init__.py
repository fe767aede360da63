"""Documents on their way through a build: files, partitions, splits."""
