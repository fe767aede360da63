"""The endless order in which a run visits items: each once an epoch, in another order each time."""

from typing import Any

import numpy as np


def shuffle_forever(items: Any, seed: int, position: int) -> Any:
    """Return a sequence without end (`grain.MapDataset`): every item once per epoch, shuffled.

    Args:
        items: with `len` and indices.
        seed: the run's.
        position: place among the sequences of a run.
    """
    import grain  # slow to import, and no command needs it for --help

    # Datasets of a mixture, and runs with neighbouring seeds, must not share orders: grain
    # shuffles epoch e with seed + e.
    own_seed = int(np.random.SeedSequence([seed, position]).generate_state(1)[0])
    return grain.MapDataset.source(items).shuffle(seed=own_seed).repeat()
