"""`jaxgpt VERB ...`: the same as `python -m jaxgpt.VERB ...` or `python tools/VERB.py ...`."""

import importlib
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxgpt.checkpoints.lineage import git_state, package_versions
from jaxgpt.command_line import run_verb
from jaxgpt.errors import UsageError, did_you_mean

# Module and description of each verb; only the one that is asked for is imported.
VERBS = {
    "quickstart": ("jaxgpt.quickstart", "go from text to a trained model, in minutes"),
    "build-dataset": ("jaxgpt.tools.build_dataset", "build a dataset folder from raw text"),
    "append-dataset": ("jaxgpt.tools.append_dataset", "add text to a finished dataset"),
    "merge-shards": ("jaxgpt.tools.merge_shards", "merge small shards into full ones"),
    "takedown": ("jaxgpt.tools.takedown", "take documents out of a dataset"),
    "inspect-dataset": ("jaxgpt.tools.inspect_dataset", "show documents, or why one was dropped"),
    "export-dataset": ("jaxgpt.tools.export_dataset", "write documents as Parquet or ArrayRecord"),
    "import-tokens": ("jaxgpt.tools.import_tokens", "make a dataset from existing token files"),
    "import-huggingface": ("jaxgpt.tools.import_huggingface", "make a run of published weights"),
    "train-tokenizer": ("jaxgpt.tools.train_tokenizer", "train a tokenizer alone, and measure it"),
    "docstring-examples": ("jaxgpt.tools.docstring_examples", "make examples from Python code"),
    "number-examples": ("jaxgpt.tools.number_examples", "make examples about numbers"),
    "order-examples": ("jaxgpt.tools.order_examples", "make examples about the order of words"),
    "plan": ("jaxgpt.plan", "predict memory, time and cost of a run before it starts"),
    "train": ("jaxgpt.train", "train a model, or continue a run"),
    "finetune": ("jaxgpt.finetune", "teach a trained model a job by examples"),
    "merge-adapter": ("jaxgpt.tools.merge_adapter", "merge an adapter into its base"),
    "supervise": ("jaxgpt.supervise", "restart a command each time it ends unfinished"),
    "eval": ("jaxgpt.eval", "measure loss, perplexity and bits per byte of a checkpoint"),
    "generate": ("jaxgpt.generate", "continue a text with a checkpoint"),
    "chat": ("jaxgpt.chat", "talk with a checkpoint in the terminal"),
    "serve": ("jaxgpt.serve", "serve a checkpoint over HTTP, as OpenAI's API does"),
    "export": ("jaxgpt.export", "write a checkpoint as files that other tools read"),
    "report": ("jaxgpt.report", "write report.html of a run, finished or not"),
    "verify": ("jaxgpt.verify", "check the hashes of a run or dataset"),
    "benchmark": ("jaxgpt.tools.benchmark", "measure the speed of a part against a reference"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Find the verb and hand over."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    verb = arguments[0] if arguments else ""
    if verb in VERBS:
        module, _ = VERBS[verb]
        run_verb(importlib.import_module(module).main, arguments[1:])
    else:
        run_verb(_without_verb, arguments)


def _without_verb(arguments: Sequence[str]) -> None:
    """Print the help or the version, which need no verb.

    Raises:
        UsageError: anything else.
    """
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        print(_usage())
    elif first in ("-V", "--version"):
        print(_version())
    elif first:
        raise UsageError(f"no verb {first!r}{did_you_mean(first, VERBS)} (`jaxgpt help` lists all)")
    else:
        print(_usage(), file=sys.stderr)
        raise UsageError("no verb is given; choose one of those above")


def _usage() -> str:
    width = max(map(len, VERBS))
    lines = ["usage: jaxgpt VERB [options]", ""]
    lines += [f"  {name:{width}}  {text}" for name, (_, text) in VERBS.items()]
    hint = "`jaxgpt help VERB` lists a verb's options, `jaxgpt --version` prints the version."
    return "\n".join([*lines, "", hint])


def _version() -> str:
    versions = package_versions()
    git = git_state(Path(__file__).resolve().parents[1])
    commit = "" if git is None else f", commit {git['commit'][:12]}"
    changed = " with changes" if git is not None and git["dirty"] else ""
    own, python = versions["jaxgpt"] or "not installed", platform.python_version()
    return f"jaxgpt {own}{commit}{changed}, jax {versions['jax']}, Python {python}"
