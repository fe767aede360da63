"""`python -m jaxgpt.train --config configs/base.py`: train a model, or continue its run."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxgpt.command_line import KERNEL_LOGGER, find_option, parse_options, run_verb
from jaxgpt.config import load_config, replace
from jaxgpt.data.loader import WeightedDataset
from jaxgpt.distributed.hosts import HostsConfig, joined_hosts
from jaxgpt.errors import UsageError
from jaxgpt.runs.config import TrainConfig
from jaxgpt.runs.pretrain import train_run
from jaxgpt.runs.remote import local_folder
from jaxgpt.training.goodput import process_start


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a GPT. Every field of the config can be overridden: --section.field value."""

    config: str
    """Config file (.py or .json), such as configs/base.py. Its values are the defaults of all other
    options; --help without a config shows those of configs/base.py."""
    data: str | None = None
    """Dataset folder, in place of the config's data.datasets."""
    run_dir: str | None = None
    """Folder of the run, or a URL such as gs://bucket/run; default: runs/NAME of the config."""
    resume: Literal["auto", "never", "must"] = "auto"
    """Treatment of an existing run. auto: continue it if there is one; never: refuse to continue;
    must: refuse to start a new one."""
    allow_data_change: bool = False
    """Continue a run on a different dataset from the one it was started on."""
    hosts: HostsConfig = field(default_factory=HostsConfig)
    settings: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(kw_only=True)


def main(argv: Sequence[str]) -> None:
    """Parse, build, train."""
    logging.getLogger(KERNEL_LOGGER).setLevel(logging.INFO)
    path = find_option(argv, "--config")
    if path is None and not {"--help", "-h"} & set(argv):
        raise UsageError("--config is missing; for example --config configs/base.py")
    default = load_config(path or Path(__file__).parents[1] / "configs" / "base.py", TrainConfig)
    options = parse_options(
        TrainOptions,
        argv,
        prog="jaxgpt train",
        default=TrainOptions(config=path or tyro.MISSING, settings=default),
    )
    config = options.settings
    if options.data is not None:
        data = replace(config.data, datasets=(WeightedDataset(path=options.data),))
        config = replace(config, data=data)
    run_dir, url = local_folder(options.run_dir or f"runs/{Path(options.config).stem}")
    with joined_hosts(options.hosts):
        train_run(config, run_dir, options.resume, options.allow_data_change, process_start(), url)


if __name__ == "__main__":
    run_verb(main)
