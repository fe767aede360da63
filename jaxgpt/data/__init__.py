"""Token shards -> Batches, in an order that is a pure function of (seed, step). No JAX in here."""
