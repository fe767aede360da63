"""`train-step`: the two sides are one computation, and what is no fair figure is refused."""

import importlib.util
import sys
from typing import Any

import jax
import numpy as np
import pytest

from jaxgpt.benchmarks import train_step
from jaxgpt.benchmarks.peers import torch_process
from jaxgpt.benchmarks.peers.torch_process import TorchProcess, require_torch
from jaxgpt.benchmarks.peers.torch_weights import torch_weights
from jaxgpt.benchmarks.train_rounds import TrainRounds
from jaxgpt.benchmarks.train_step import TrainStepBenchmark
from jaxgpt.errors import ConfigError, JaxgptError

pytestmark = pytest.mark.slow

# As many rows as the tests have devices.
TINY: dict[str, Any] = {"shape": "tiny", "batch_size": 8}
SETTINGS = {
    "mode": "eager",
    "dtype": "float32",
    "learning_rate": 3e-4,
    "weight_decay": 0.1,
    "betas": [0.9, 0.95],
    "eps": 1e-8,
    "clip_norm": 1.0,
}


@pytest.fixture(scope="module")
def ours() -> TrainRounds:
    """The benchmark's step, two steps on; not to be trained further."""
    benchmark = TrainStepBenchmark(**TINY)
    return TrainRounds(benchmark.train_config(), 65, benchmark.batches())


def test_pytorch_computes_the_same_losses_and_updates(ours: TrainRounds) -> None:
    pytest.importorskip("torch", reason="an extra: pip install -e '.[benchmark]'")
    from jaxgpt.benchmarks.peers.torch_gpt import TorchTrainer

    benchmark = TrainStepBenchmark(**TINY)
    batches = benchmark.batches()
    arrays = torch_weights(ours.parameters(), 65) | {
        "tokens": np.stack([batch.tokens_BT for batch in batches]),
        "targets": np.stack([batch.targets_BT for batch in batches]),
    }
    theirs = TorchTrainer(train_step._sizes_of(benchmark.sizes()), SETTINGS, arrays)
    _, their_losses = theirs.train(2)
    _, our_losses = ours.train(2)
    np.testing.assert_allclose(our_losses, their_losses, rtol=1e-5)
    expected = torch_weights(ours.parameters(), 65)
    found = {name: value.detach().numpy() for name, value in theirs.model.named_parameters()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


def test_a_figure_beside_the_matrix_products_of_the_same_run() -> None:
    found = TrainStepBenchmark(**TINY, steps=15, rounds=2, dtype="bfloat16", document=8).run()
    first, last = found.settings["first and last loss"]
    assert last < first
    assert 0 < found.floor_ratio < 1
    assert found.settings["num_devices"] == jax.device_count()


def test_pytorch_takes_turns_in_its_own_process() -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("an extra: pip install -e '.[benchmark]'")
    was_imported = "torch" in sys.modules
    options = TINY | {"steps": 15, "rounds": 2}
    found = TrainStepBenchmark(**options, against="pytorch", mode="eager").run()
    assert found.against is not None
    assert found.against.ratio == pytest.approx(found.value / found.against.value)
    assert "torch" in found.versions
    assert ("torch" in sys.modules) == was_imported


def test_the_floor_is_counted_as_published() -> None:
    """GPT-2 124M at 1,024 tokens: 0.855 GFLOP a token."""
    benchmark = TrainStepBenchmark(shape="gpt2-124m", sequence_length=1024)
    assert benchmark.flops_per_token() == pytest.approx(0.855e9, rel=1e-3)


def test_a_step_that_does_not_learn_is_no_figure() -> None:
    with pytest.raises(JaxgptError, match="did not fall"):
        train_step._check_fall("jaxgpt", [1.0, 1.5, float("nan"), float("nan")])
    with pytest.raises(JaxgptError, match="do not compute the same"):
        train_step._check_equal(4.0, 4.01, "float32")
    with pytest.raises(JaxgptError, match="do not compute the same"):
        train_step._check_equal(4.0, float("nan"), "bfloat16")


def test_what_pytorch_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_process.shutil, "which", lambda name: None)
    monkeypatch.setattr(torch_process.importlib.util, "find_spec", lambda name: object())
    require_torch(compiles=False)
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        require_torch(compiles=True)
    monkeypatch.setattr(torch_process.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install"):
        TrainStepBenchmark(**TINY, against="pytorch").run()


def test_what_fails_over_there_is_one_line_here() -> None:
    pytest.importorskip("torch", reason="an extra: pip install -e '.[benchmark]'")
    with pytest.raises(JaxgptError, match="PyTorch's side failed: KeyError"):
        TorchProcess("train", {}, shape={}, settings={})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "at least 1"),
        ({"against": "pytorch", "document": 8}, "packed"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainStepBenchmark(**options)
