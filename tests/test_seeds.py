"""A seed is what it is: out of range is refused by name, and no two seeds make the same run."""

import jax
import numpy as np
import pytest

from jaxgpt.batch import Batch
from jaxgpt.config import load_config, replace
from jaxgpt.corpus.documents.splits import draw
from jaxgpt.data.loader import BatchConfig, DataConfig, WeightedDataset, open_training_batches
from jaxgpt.errors import ConfigError
from jaxgpt.inference.sampling import row_keys
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.gpt import GptConfig
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.parallel.sharding import ShardingRules
from jaxgpt.runs.config import TrainConfig
from jaxgpt.training.optimizer import AdamW
from jaxgpt.training.schedule import Constant
from jaxgpt.training.state import init_parameters, init_state, plan_state
from tests.tiny import REPOSITORY, make_dataset

# All equal modulo 2^32.
SEEDS = (7, 7 + 2**32, 7 + 2**33, 7 + 2**63)


def _all_differ(arrays) -> bool:
    return len({np.asarray(array).tobytes() for array in arrays}) == len(SEEDS)


@pytest.mark.parametrize("seed", [-1, 2**64, 10**30])
def test_a_seed_out_of_range_is_refused_by_name(seed: int) -> None:
    base = load_config(REPOSITORY / "configs/base.py", TrainConfig)
    with pytest.raises(ConfigError, match=rf"seed={seed} must be from 0 to 2\*\*64 - 1"):
        replace(base, seed=seed)


def test_seeds_equal_modulo_2_to_the_32_make_different_runs(tmp_path) -> None:
    data = make_dataset(tmp_path / "data")
    batches: list[Batch] = []
    for seed in SEEDS:
        source = open_training_batches(
            DataConfig(datasets=(WeightedDataset(path=str(data)),)),
            BatchConfig(sequence_length=8, global_batch_size=4),
            seed,
        )
        batches.append(source.batch(0))
    assert _all_differ(batch.tokens_BT for batch in batches)

    attention = GroupedQueryAttention(num_heads=1)
    model = GptConfig(num_layers=1, d_model=8, attention=attention).build(9)
    mesh, rules = single_device_mesh(), ShardingRules()
    schedule = Constant().build()
    plan, optimizer = plan_state(model, lambda axes: AdamW().build(schedule, axes), rules, mesh)
    params = [init_parameters(model, rules, mesh, seed) for seed in SEEDS[:2]]
    assert np.any(params[0]["embedding"]["table"] != params[1]["embedding"]["table"])
    states = [init_state(params[0], optimizer, plan, seed) for seed in SEEDS]
    assert _all_differ(jax.random.key_data(state.rng) for state in states)


def test_seeds_equal_modulo_2_to_the_32_sample_and_split_differently() -> None:
    rows = np.arange(3, dtype=np.uint32)
    assert _all_differ(jax.random.key_data(row_keys(seed, rows)) for seed in SEEDS)
    for purpose in ("split", "order", "mixture", "inspect"):
        assert len({draw(purpose, seed, b"text") for seed in (*SEEDS, -1)}) == len(SEEDS) + 1
