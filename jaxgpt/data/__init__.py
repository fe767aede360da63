"""Token shards -> Batches, in an order that is a pure function of (seed, step). No JAX in here."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.batch import Batch
    from jaxgpt.data.loader import (
        BatchConfig,
        DataConfig,
        TrainingBatches,
        WeightedDataset,
        evaluation_batches,
        open_training_batches,
    )
    from jaxgpt.data.shard_writer import ShardWriter
    from jaxgpt.data.shards import TokenDataset
else:
    __getattr__, __dir__ = lazy_imports(__name__)
