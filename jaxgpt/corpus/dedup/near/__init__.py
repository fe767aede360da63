"""Near duplicates: documents that share most of their word n-grams.

MinHash signatures and locality-sensitive hashing propose pairs; an exact comparison decides.
`docs/near_duplicates.md` explains it.
"""
