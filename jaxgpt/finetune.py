"""`python -m jaxgpt.finetune --config configs/sft.py --checkpoint RUN --data FILE`: specialise."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, cast

import tyro

from jaxgpt.command_line import KERNEL_LOGGER, find_option, parse_options, run_verb
from jaxgpt.config import load_config
from jaxgpt.distributed.hosts import HostsConfig, joined_hosts
from jaxgpt.errors import UsageError
from jaxgpt.runs.pretrain import train_run
from jaxgpt.runs.remote import local_folder
from jaxgpt.runs.tuning.based_config import (
    BasedRunConfig,
    TuningConfig,
    complete,
    open_data,
    with_given_steps,
)
from jaxgpt.runs.tuning.continued import as_begun
from jaxgpt.runtime.settings import configure_runtime
from jaxgpt.training.goodput import process_start


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """Teach a trained model a job by examples. Every field of the config can be overridden."""

    config: str
    """Config file (.py or .json), such as configs/sft.py."""
    checkpoint: str
    """Run folder of the model to begin with, or its URL."""
    step: str = "latest"
    """Checkpoint of that run: latest, best (lowest validation loss), or a step's number."""
    data: tuple[str, ...] = ()
    """Files of examples or dataset folders, in place of those of the config."""
    run_dir: str | None = None
    """Folder of the new run, or a URL such as gs://bucket/run; default: runs/NAME of the config."""
    resume: Literal["auto", "never", "must"] = "auto"
    """Treatment of an existing run. auto: continue it if there is one; never: refuse to continue;
    must: refuse to start a new one."""
    allow_data_change: bool = False
    """Continue a run on different data from those it was started on."""
    hosts: HostsConfig = field(default_factory=HostsConfig)
    settings: Annotated[TuningConfig, tyro.conf.arg(name="")] = field(kw_only=True)


def main(argv: Sequence[str]) -> None:
    """Parse, open the base and the data, train."""
    logging.getLogger(KERNEL_LOGGER).setLevel(logging.INFO)
    path, checkpoint = find_option(argv, "--config"), find_option(argv, "--checkpoint")
    wants_help = bool({"--help", "-h"} & set(argv))
    if not wants_help and (path is None or checkpoint is None):
        missing = "--config" if path is None else "--checkpoint"
        raise UsageError(
            f"{missing} is missing; for example --config configs/sft.py --checkpoint runs/base"
        )
    sft = Path(__file__).parents[1] / "configs" / "sft.py"
    settings = load_config(path or sft, TuningConfig)
    if checkpoint is not None:
        settings = complete(settings, checkpoint, find_option(argv, "--step") or "latest")
    default = FinetuneOptions(
        config=path or tyro.MISSING, checkpoint=checkpoint or tyro.MISSING, settings=settings
    )
    options = parse_options(FinetuneOptions, argv, prog="jaxgpt finetune", default=default)
    config = cast(BasedRunConfig, options.settings)
    if options.data:
        config = config.with_data(options.data)
    config = with_given_steps(config, argv)
    run_dir, url = local_folder(options.run_dir or f"runs/{Path(options.config).stem}")
    with joined_hosts(options.hosts):
        configure_runtime(config.runtime)
        config, sources = open_data(as_begun(config, run_dir, url))
        modes = options.resume, options.allow_data_change
        train_run(config, run_dir, *modes, process_start(), url, sources)


if __name__ == "__main__":
    run_verb(main)
