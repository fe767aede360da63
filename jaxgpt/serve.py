"""`python -m jaxgpt.serve --checkpoint RUN`: serve a checkpoint over HTTP, as OpenAI's API does."""

import importlib
import sys
from collections.abc import Sequence

from jaxgpt.command_line import run_verb
from jaxgpt.inference import Engine
from jaxgpt.names.packages import import_package, install_advice
from jaxgpt.runs.decoding import open_decoder
from jaxgpt.runs.run import Run
from jaxgpt.serving.options import listen, parse


def main(argv: Sequence[str]) -> None:
    """Parse, restore, serve until a signal comes."""
    options, keys = parse(argv)
    for package in ("fastapi", "uvicorn", "prometheus_client", "llguidance"):
        import_package(package, "the server", install_advice("serve"))
    socket = listen(options.host, options.port)
    run, step, decoder = open_decoder(options.checkpoint, options.step, options.precision)
    name = options.name or run.directory.resolve().name
    # Its packages are an extra, which a plain install does not have.
    launch = importlib.import_module("jaxgpt.serving.launch")
    vocab_size = run.tokenizer.vocab_size
    facts = launch.ServedFacts(
        name=name,
        aliases=options.alias,
        stop_id=decoder.stop_ids[0],
        created=_saved_at(run, step),
        meta={
            "step": step,
            "n_ctx_train": decoder.context_length,
            "n_vocab": vocab_size,
            "prompt_form": run.config.prompt_form,
        },
    )
    listening = launch.Listening(
        host=options.host,
        socket=socket,
        api_keys=keys,
        max_body_bytes=options.max_body_megabytes << 20,
        grace_seconds=options.grace_seconds,
        largest_chunk=options.engine.prefill_chunk,
    )

    def announce(url: str) -> None:
        print(f"serving {name} at {url}\nchat page: {url}/", file=sys.stderr, flush=True)

    engine = Engine(decoder, options.engine)
    launch.serve(facts, engine, run.tokenizer, listening, announce)


def _saved_at(run: Run, step: int) -> int:
    """Return when a checkpoint was written, in seconds since 1970; 0 if that is not known here."""
    folder = run.directory / "checkpoints" / str(step)
    return int(folder.stat().st_mtime) if folder.exists() else 0


if __name__ == "__main__":
    run_verb(main)
