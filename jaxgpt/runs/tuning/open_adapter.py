"""The trained adapter of a run, alone: for a decoder of its base, or for a file of another tool."""

from typing import Any, NamedTuple

from jaxgpt.errors import ConfigError, MismatchError, UsageError
from jaxgpt.inference.engine.slots.adapters import DecoderAdapter
from jaxgpt.inference.text_generation import forbidden_ids
from jaxgpt.model.layers.adapters import Lora, LowRank
from jaxgpt.model.stacked_adapters import TrainedAdapter
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import Run, open_run, read_step_fingerprint
from jaxgpt.runs.tuning.adapter_params import own_parameters
from jaxgpt.runs.tuning.based_config import BasedRunConfig
from jaxgpt.training.state import abstract_parameters


class OpenedAdapter(NamedTuple):
    """An adapter that a decoder of its base can use.

    Attributes:
        run: the run that trained it.
        step: of that run.
        adapter: with the ids that end its texts.
    """

    run: Run
    step: int
    adapter: DecoderAdapter


def find_adapter(run: Run, otherwise: str) -> LowRank:
    """Return the settings of a run's adapter.

    Args:
        run: a run that trained one.
        otherwise: what to do with a run that did not.

    Raises:
        UsageError: it did not.
    """
    config = run.config
    if not isinstance(config, BasedRunConfig) or not isinstance(config.adapter, LowRank):
        raise UsageError(f"{run.directory} has no adapter; {otherwise}")
    return config.adapter


def read_adapter(run: Run, step: int, adapter: LowRank) -> Any:
    """Read the parameters of a run's adapter, without those of its base.

    Args:
        run: the run.
        step: of the run.
        adapter: its settings.

    Raises:
        MismatchError: the checkpoint holds other parameters.
    """
    config = run.config
    abstract, _ = abstract_parameters(run.build_model(), config.sharding, single_device_mesh())
    model = config.model.build(run.tokenizer.vocab_size, adapter)
    own = own_parameters(model, config.sharding, abstract)
    return run.checkpoints.restore_params(step, own)


def open_adapter(place: str, base: Run, base_step: int) -> OpenedAdapter:
    """Open the latest adapter of a run, for a decoder of a checkpoint.

    Args:
        place: run folder of the adapter, or its URL.
        base: the run of the checkpoint.
        base_step: of that run.

    Raises:
        UsageError: there is no such run, or it has no adapter.
        MismatchError: the adapter was trained on another checkpoint.
        ConfigError: the adapter changes more than rows of a batch can choose.
    """
    run = open_run(place)
    adapter, config = find_adapter(run, "serve it with --checkpoint"), run.config
    assert isinstance(config, BasedRunConfig)
    found, wanted = read_step_fingerprint(base.directory, base_step), config.base.fingerprint
    if found != wanted:
        raise MismatchError(
            f"the adapter of {place} was trained on step {config.base.step} of {config.base.run} "
            f"({wanted[:12]}), and the model is step {base_step} of {base.directory} "
            f"({found[:12]}); give the checkpoint that it was trained on"
        )
    if not isinstance(adapter, Lora) or config.model.head.is_new:
        kind = type(config.model.head if isinstance(adapter, Lora) else adapter).__name__
        raise ConfigError(
            f"{place} has trained a {kind}, and only Lora of a language model is served next to "
            "its base; merge the adapter by tools/merge_adapter.py and serve the merged run"
        )
    step = run.choose_step("latest")
    stop_ids = config.stop_ids(run.tokenizer)
    forbidden = forbidden_ids(run.tokenizer, stop_ids)
    trained = TrainedAdapter(adapter, read_adapter(run, step, adapter))
    return OpenedAdapter(run, step, DecoderAdapter(trained, stop_ids, forbidden))
