"""Who carries out the tasks of a stage. The results are the same whoever does."""
