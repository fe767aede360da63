"""A Hugging Face folder as a run: its weights as a checkpoint, its config, its tokenizer.

No code of the folder is run: JSON and arrays are read. The run has step 0 only, and no data.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from jaxgpt.checkpoints.lineage import make_lineage
from jaxgpt.checkpoints.manager import Checkpoints
from jaxgpt.config import to_dict
from jaxgpt.data.loader import BatchConfig
from jaxgpt.errors import MismatchError, UsageError
from jaxgpt.interchange.architecture import Architecture
from jaxgpt.interchange.architectures import find_architecture
from jaxgpt.interchange.imported_tokenizer import add_chat_tokens, read_json, read_tokenizer
from jaxgpt.interchange.parity import Parity, check_parity
from jaxgpt.interchange.weight_files import WeightFiles
from jaxgpt.interchange.weights import by_path, to_ours
from jaxgpt.model.cost import abstract_params
from jaxgpt.model.gpt import GptConfig
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.parallel.sharding import ShardingRules
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.folder import write_description
from jaxgpt.storage.new_folder import new_folder
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.training.state import abstract_parameters

STEP = 0
# Axis of the vocabulary in our arrays that have one.
_VOCAB_AXES = {"embedding/table": 0, "head/kernel": 1}


def import_huggingface(
    folder: Path, output: Path, sequence_length: int | None, chat_tokens: bool
) -> tuple[Architecture, Parity]:
    """Write a run folder with the model of a Hugging Face folder, after a comparison of both.

    Args:
        folder: config.json, safetensors, tokenizer.json.
        output: new run folder.
        sequence_length: longest rows of the run; None for those of config.json.
        chat_tokens: whether control tokens for conversations are added, if there are none; their
            rows of the tables are the mean of the others.

    Raises:
        ConfigError: an architecture or a field of config.json is not built here.
        MismatchError: weights or tokenizer do not fit the config, or transformers computes
            something else from the folder.
        UsageError: files are missing, or `output` is not empty.
    """
    theirs = read_json(folder / "config.json")
    if not isinstance(theirs, dict):
        raise MismatchError(f"{folder / 'config.json'} is no object of JSON")
    architecture = find_architecture(theirs)
    config = architecture.read_config(theirs)
    tokenizer = read_tokenizer(folder, theirs)
    length = sequence_length or theirs.get(architecture.context_field)
    if length is None:
        raise UsageError(f"config.json lacks {architecture.context_field}; give --sequence-length")
    if not isinstance(theirs.get("vocab_size"), int):
        raise UsageError("config.json lacks vocab_size, the number of rows of the model's table")
    if theirs["vocab_size"] < tokenizer.vocab_size:
        raise MismatchError(
            f"the tokenizer has {tokenizer.vocab_size} ids, and the model {theirs['vocab_size']}; "
            "they are not of one model"
        )
    files = WeightFiles(folder)
    params = _read_params(architecture, config, tokenizer.vocab_size, files)
    parity = check_parity(folder, config, unflatten_dict(params, sep="/"), tokenizer, length)
    if chat_tokens:
        # Their table may have rows for ids to come, which nobody has trained.
        num_trained = tokenizer.vocab_size
        tokenizer = add_chat_tokens(tokenizer)
        params = _read_params(architecture, config, tokenizer.vocab_size, files)
        _fill_rows(params, num_trained, tokenizer.vocab_size)
    batch = BatchConfig(sequence_length=length, global_batch_size=1)
    run_config = TrainConfig(model=config, batch=batch)
    _write_run(output, run_config, tokenizer, unflatten_dict(params, sep="/"), folder)
    return architecture, parity


def _read_params(
    architecture: Architecture, config: GptConfig, vocab_size: int, files: WeightFiles
) -> dict[str, np.ndarray]:
    """Return our parameters by path, float32; rows that pad the vocabulary are 0."""
    tree = by_path(abstract_params(config, vocab_size))
    shapes = {path: leaf.shape for path, leaf in tree.items()}
    params = to_ours(architecture.weights, files.names, files.read, shapes)
    params = {path: np.asarray(array, np.float32) for path, array in params.items()}
    for path, axis in _VOCAB_AXES.items():
        if path in params:
            # Rows of the published table that no token has would be padding here.
            np.moveaxis(params[path], axis, 0)[vocab_size:] = 0
    return params


def _fill_rows(params: dict[str, np.ndarray], first: int, stop: int) -> None:
    """Give ids from `first` on the mean of all rows before."""
    for path, axis in _VOCAB_AXES.items():
        if path in params:
            rows = np.moveaxis(params[path], axis, 0)
            rows[first:stop] = rows[:first].mean(axis=0)


def _write_run(
    output: Path, config: TrainConfig, tokenizer: Tokenizer, params: Any, folder: Path
) -> None:
    model, mesh = config.model.build(tokenizer.vocab_size), single_device_mesh()
    abstract, _ = abstract_parameters(model, ShardingRules(), mesh)
    placed = jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), params, abstract)
    lineage = make_lineage(
        config=to_dict(config),
        data={"datasets": [], "imported_from": str(folder.resolve())},
        tokenizer=tokenizer.fingerprint,
        devices={},
    )
    with new_folder(output) as run:
        write_description(run, config, tokenizer, lineage)
        with closing(Checkpoints(run / "checkpoints", config.checkpoint)) as checkpoints:
            checkpoints.save(STEP, placed, {}, {"imported_from": str(folder.resolve())})
