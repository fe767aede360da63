"""`python -m jaxgpt.serve --checkpoint RUN`: serve a checkpoint over HTTP, as OpenAI's API does."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from jaxgpt.command_line import run_verb
from jaxgpt.inference import Engine
from jaxgpt.names.packages import import_package, install_advice
from jaxgpt.runs.decoding import open_with_drafts
from jaxgpt.runs.run import Run
from jaxgpt.runs.tuning.open_adapter import open_adapter
from jaxgpt.serving.options import listen, named_adapters, parse


def main(argv: Sequence[str]) -> None:
    """Parse, restore, serve until a signal comes."""
    options, keys = parse(argv)
    for package in ("fastapi", "uvicorn", "prometheus_client", "llguidance"):
        import_package(package, "the server", install_advice("serve"))
    socket = listen(options.host, options.port)
    how = options.precision, options.mesh, options.speculation
    opened, open_checkpoint = open_with_drafts(options.checkpoint, options.step, *how)
    run, step, decoder = opened
    name = options.name or run.directory.resolve().name
    places = named_adapters(options, name)
    adapters = [open_adapter(place, run, step) for place in places.values()]
    # Its packages are an extra, which a plain install does not have.
    launch = importlib.import_module("jaxgpt.serving.launch")
    served = [(name, options.alias, run, step, decoder.stop_ids)]
    for own, each in zip(places, adapters, strict=True):
        served.append((own, (), each.run, each.step, each.adapter.stop_ids))
    facts = [
        launch.ServedFacts(
            name=name,
            aliases=aliases,
            stop_id=stop_ids[0],
            created=_saved_at(run, step),
            meta=_describe(run, step, decoder.context_length),
        )
        for name, aliases, run, step, stop_ids in served
    ]
    listening = launch.Listening(
        host=options.host,
        socket=socket,
        api_keys=keys,
        cors_origins=options.cors_origin,
        max_body_bytes=options.max_body_megabytes << 20,
        answer_seconds=options.answer_seconds,
        grace_seconds=options.grace_seconds,
    )

    def announce(url: str) -> None:
        names = ", ".join([name, *places])
        print(f"serving {names} at {url}\nchat page: {url}/", file=sys.stderr, flush=True)

    engine = Engine(
        decoder,
        options.engine,
        [each.adapter for each in adapters],
        options.speculation,
        open_checkpoint,
    )
    launch.serve(facts, engine, run.tokenizer, listening, announce)


def _describe(run: Run, step: int, context_length: int) -> dict[str, Any]:
    """Return facts about a model that clients may show."""
    return {
        "step": step,
        "n_ctx_train": context_length,
        "n_vocab": run.tokenizer.vocab_size,
        "prompt_form": run.config.prompt_form,
    }


def _saved_at(run: Run, step: int) -> int:
    """Return when a checkpoint was written, in seconds since 1970; 0 if that is not known here."""
    folder = run.directory / "checkpoints" / str(step)
    return int(folder.stat().st_mtime) if folder.exists() else 0


if __name__ == "__main__":
    run_verb(main)
