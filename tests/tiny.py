"""Small things to test with: text, a dataset, a config file, runs in processes of their own."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jaxgpt.data.manifest import write_manifest
from jaxgpt.data.shard_writer import ShardWriter
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer
from tests.forked import run_forked
from tests.xla_flags import with_devices

REPOSITORY = Path(__file__).resolve().parent.parent

_SENTENCES = (
    "the small cat finds a river under the old stone, and one quick dog sees every green bird. "
    "some fish likes the road but a slow tree keeps near the red house with new stone over it."
)
_WORDS = _SENTENCES.replace(",", "").replace(".", "").split()

CONFIG = """
from jaxgpt.data.loader import BatchConfig, DataConfig, WeightedDataset
from jaxgpt.runs.config import EvaluationConfig, TrainConfig
from jaxgpt.model.attention.attention import GroupedQueryAttention
from jaxgpt.model.layers.feed_forward import SwiGlu
from jaxgpt.model.gpt import GptConfig
from jaxgpt.model.layer_stack import Scanned
from jaxgpt.model.layers.projection import Dropout
from jaxgpt.runtime.settings import RuntimeConfig
from jaxgpt.checkpoints.config import CheckpointConfig
from jaxgpt.training.metrics import LoggingConfig
from jaxgpt.training.optimizer import Muon
from jaxgpt.training.schedule import Cosine

config = TrainConfig(
    model=GptConfig(
        num_layers=2,
        d_model=16,
        attention=GroupedQueryAttention(num_heads=2, num_kv_heads=1),
        feed_forward=SwiGlu(hidden=32),
        dropout=Dropout(embedding=0.1, residual=0.1),
        layers=Scanned(),
    ),
    data=DataConfig(datasets={datasets}),
    batch=BatchConfig(sequence_length=16, global_batch_size=8, num_micro_batches=2),
    schedule=Cosine(num_steps={num_steps}, peak_learning_rate=1e-2, warmup_share=0.1),
    optimizer=Muon(),
    evaluation=EvaluationConfig(
        every_steps=7, max_tokens=500, prompts=("the cat",), sample_tokens=8
    ),
    checkpoint=CheckpointConfig(every_steps={save_every}, keep_latest=2),
    logging=LoggingConfig(every_steps=1, progress_seconds=0.0),
)
"""


def make_texts(num_documents: int, seed: int = 0) -> list[str]:
    """Sentences of a toy language, different documents of different lengths."""
    rng = random.Random(seed)
    return [
        " ".join(rng.choice(_WORDS) for _ in range(rng.randint(5, 60))) + ".\n"
        for _ in range(num_documents)
    ]


def make_dataset(
    folder: Path,
    num_documents: int = 200,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
    texts: list[str] | None = None,
) -> Path:
    """Write a dataset folder of toy text, or of `texts`; a tokenizer makes it fit to others'."""
    texts = make_texts(num_documents, seed) if texts is None else texts
    if tokenizer is None:
        tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=320))
    folder.mkdir(parents=True)
    tokenizer.save(folder / "tokenizer")
    splits = {}
    for name, part in {"train": texts[20:], "val": texts[:20]}.items():
        with ShardWriter(folder, name, tokenizer, max_shard_tokens=2000) as writer:
            for text in part:
                writer.add(tokenizer.encode(text), len(text.encode()))
        splits[name] = writer.shards
    write_manifest(folder, tokenizer, splits, {"sources": [], "settings": {}, "counts": {}})
    return folder


def write_config(
    path: Path, datasets: Sequence[tuple[Path, float]], num_steps: int = 20, save_every: int = 5
) -> Path:
    """Write a config file with dropout, accumulation, scanned layers and a mixture."""
    listed = ", ".join(
        f"WeightedDataset(path={str(folder)!r}, weight={weight})" for folder, weight in datasets
    )
    path.write_text(
        CONFIG.format(datasets=f"({listed},)", num_steps=num_steps, save_every=save_every)
    )
    return path


def environment(cache: Path, num_devices: int = 1, optimized: bool = False) -> dict[str, str]:
    """The environment of a process that sees so many simulated devices."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": with_devices(num_devices, optimized),
        # One for all tests (conftest.py): most of these processes compile the same programs.
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache),
    }


def run_verb(
    verb: str,
    *arguments: str,
    cache: Path,
    num_devices: int = 1,
    optimized: bool = False,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m jaxgpt.VERB` to its end."""
    variables = environment(cache, num_devices, optimized)
    return run_forked(["-m", f"jaxgpt.{verb}", *arguments], REPOSITORY, variables, timeout)


def run_until(
    path: Path, num_lines: int, number: signal.Signals, *command: str, cache: Path
) -> tuple[int, str]:
    """Start a verb and send it a signal once a file has so many lines; its exit code and stderr.

    Args:
        path: a file that the process appends lines to.
        num_lines: new lines to wait for, beyond those that are there.
        number: the signal.
        command: the verb and its arguments.
        cache: the compile cache.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", f"jaxgpt.{command[0]}", *command[1:]],
        cwd=REPOSITORY,
        env=environment(cache),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    started = False
    while process.poll() is None and time.monotonic() < deadline:
        # A resumed process first rewrites the file: count what it writes after that.
        lines = path.read_text().count("\n") if path.exists() else 0
        if not started:
            started, before = True, lines
        before = min(before, lines)
        if lines - before >= num_lines:
            process.send_signal(number)
            break
        time.sleep(0.005)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def hash_folder(folder: Path) -> str:
    """SHA-256 over names and bytes of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
