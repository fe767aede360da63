"""Atomic files, locks, mapped arrays, object stores, the lease of a writer."""
