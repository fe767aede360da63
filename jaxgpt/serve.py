"""`python -m jaxgpt.serve --checkpoint RUN`: serve a checkpoint over HTTP, as OpenAI's API does."""

import dataclasses
import importlib
import ipaddress
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxgpt.command_line import parse_options, require_at_least, run_verb
from jaxgpt.errors import UsageError
from jaxgpt.inference.engine import Engine, EngineConfig
from jaxgpt.inference.text_generation import make_text_decoder
from jaxgpt.names.packages import import_package, install_advice
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import Run, open_run
from jaxgpt.runtime.settings import configure_runtime

_VARIABLE_PREFIX = "JAXGPT_SERVE_"


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Serve a trained model over HTTP; each option can also be an environment variable,
    JAXGPT_SERVE_PORT for --port."""

    checkpoint: str
    """Run folder, as written by jaxgpt.train or jaxgpt.finetune, or its URL."""
    step: str = "latest"
    """Checkpoint: latest, best (lowest validation loss), or a step's number."""
    host: str = "127.0.0.1"
    """Address to listen at; one that other machines reach needs --api-key-file."""
    port: int = 8000
    """Port to listen at; 0 for any that is free."""
    api_key_file: Path | None = None
    """File with API keys, one a line; None: no key is needed."""
    name: str | None = None
    """Model id that clients see; None: the name of the run folder."""
    alias: tuple[str, ...] = ()
    """Further model ids that clients may use."""
    max_body_megabytes: int = 16
    """Largest body of a request."""
    grace_seconds: int = 30
    """Most seconds that answers have to finish after SIGTERM."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Size of the engine."""


def main(argv: Sequence[str]) -> None:
    """Parse, restore, serve until a signal comes."""
    argv = [*_from_environment(), *argv]
    options = parse_options(ServeOptions, argv, prog="jaxgpt serve")
    require_at_least(options, port=0, max_body_megabytes=1, grace_seconds=0)
    keys = _read_keys(options.api_key_file)
    _check_host(options.host, keys)
    for package in ("fastapi", "uvicorn"):
        import_package(package, "the server", install_advice("serve"))
    run = open_run(options.checkpoint, options.step)
    configure_runtime(run.config.runtime)
    step = run.choose_step(options.step)
    params = run.restore_params(step, single_device_mesh())
    stop_ids = run.config.stop_ids(run.tokenizer)
    decoder = make_text_decoder(
        run.build_model(), params, run.tokenizer, run.config.batch.sequence_length, stop_ids
    )
    engine = Engine(decoder, options.engine)
    name = options.name or run.directory.resolve().name
    # Its packages are an extra, which a plain install does not have.
    launch = importlib.import_module("jaxgpt.serving.launch")
    launch.serve(
        launch.ServedFacts(
            name=name,
            aliases=options.alias,
            stop_id=stop_ids[0],
            created=_saved_at(run, step),
            meta={
                "step": step,
                "n_ctx_train": run.config.batch.sequence_length,
                "n_vocab": run.tokenizer.vocab_size,
            },
        ),
        engine,
        run.tokenizer,
        launch.Listening(
            host=options.host,
            port=options.port,
            api_keys=keys,
            max_body_bytes=options.max_body_megabytes << 20,
            grace_seconds=options.grace_seconds,
        ),
        lambda url: print(f"serving {name} at {url}", file=sys.stderr, flush=True),
    )


def _from_environment() -> list[str]:
    """Return options that the environment gives; those of the command line come after them."""
    found = []
    for option in dataclasses.fields(ServeOptions):
        value = os.environ.get(_VARIABLE_PREFIX + option.name.upper())
        if value is not None:
            several = isinstance(option.default, tuple)
            found += [
                f"--{option.name.replace('_', '-')}",
                *(value.split() if several else [value]),
            ]
    for option in dataclasses.fields(EngineConfig):
        value = os.environ.get(f"{_VARIABLE_PREFIX}ENGINE_{option.name.upper()}")
        if value is not None:
            found += [f"--engine.{option.name.replace('_', '-')}", value]
    return found


def _read_keys(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        keys = tuple(path.read_text().split())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"--api-key-file {path} cannot be read: {reason}") from None
    if not keys:
        raise UsageError(f"--api-key-file {path} has no key; write one a line")
    return keys


def _check_host(host: str, keys: Sequence[str]) -> None:
    """Refuse to answer other machines without a key."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and not keys:
        raise UsageError(
            f"--host {host} can be reached from other machines: give --api-key-file, or listen at "
            "127.0.0.1"
        )


def _saved_at(run: Run, step: int) -> int:
    """Return when a checkpoint was written, in seconds since 1970; 0 if that is not known here."""
    folder = run.directory / "checkpoints" / str(step)
    return int(folder.stat().st_mtime) if folder.exists() else 0


if __name__ == "__main__":
    run_verb(main)
