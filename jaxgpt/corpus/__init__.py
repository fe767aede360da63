"""Text files in, token shards out: the dataset builder. No JAX anywhere in here.

The order of the stages is in `pipeline.py`; each of the other files holds one idea.
"""
