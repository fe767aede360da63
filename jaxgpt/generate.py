"""`python -m jaxgpt.generate --checkpoint RUN --prompt TEXT`: continue texts with a checkpoint."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jaxgpt.command_line import parse_options, require_at_least, require_seed, run_verb
from jaxgpt.errors import UsageError
from jaxgpt.inference import SamplingConfig
from jaxgpt.inference.engine.forms.text_form import FormOptions
from jaxgpt.inference.sliding import SlidingDecoder
from jaxgpt.inference.text_generation import choose_length, stream_text
from jaxgpt.inference.transcript import Transcript
from jaxgpt.runs.decoding import DecodingOptions

_Texts = Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction]
_NO_PREFIX = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Continue texts with a trained model; the text streams to stdout."""

    checkpoint: str
    """Run folder, as written by jaxgpt.train, or its URL."""
    prompt: _Texts = ()
    """Texts to continue, one or more (--prompt=TEXT if it begins with --); none: a new document."""
    max_new_tokens: int | None = None
    """Most new tokens; None: up to 256, within the context that the model was trained on."""
    slide_window: bool = False
    """Sliding window beyond the model's context; the oldest tokens are forgotten."""
    num_samples: int = 1
    """Number of continuations per prompt."""
    stop: _Texts = ()
    """Strings that end a continuation, one or more; they are not printed."""
    seed: int = 0
    """Random seed of sampling, below 2**64; equal seeds, prompts and options give equal text."""
    step: str = "latest"
    """Checkpoint: latest, best (lowest validation loss), or a step's number."""
    echo: bool = True
    """Print each prompt before its continuation."""
    json: bool = False
    """Print one JSON object at the end instead of streaming."""
    form: Annotated[FormOptions, _NO_PREFIX] = field(default_factory=FormOptions)
    decoding: Annotated[DecodingOptions, _NO_PREFIX] = field(default_factory=DecodingOptions)
    sampling: Annotated[SamplingConfig, _NO_PREFIX] = field(default_factory=SamplingConfig)


def main(argv: Sequence[str]) -> None:
    """Parse, restore, generate."""
    default = GenerateOptions(checkpoint=tyro.MISSING)
    options = parse_options(GenerateOptions, argv, "jaxgpt generate", default)
    given = [text for texts in options.prompt for text in texts] or [""]
    stop = [text for texts in options.stop for text in texts]
    _check(options, stop)
    form = options.form.read(stop)
    run, step, decoder = options.decoding.open(options.checkpoint, options.step)
    texts = [text for text in given for _ in range(options.num_samples)]
    prompts = [run.config.encode_prompt(run.tokenizer, text) for text in texts]
    masks = form and form.masks(run.tokenizer, decoder.stop_ids[0], len(texts))
    writer = SlidingDecoder(decoder) if options.slide_window else decoder
    length = choose_length(writer, run.tokenizer, prompts, options.max_new_tokens)
    transcript = Transcript(texts, echo=options.echo, live=not options.json)
    draws = options.sampling, options.seed, stop, masks
    for piece in stream_text(writer, run.tokenizer, prompts, length, *draws):
        transcript.add(piece)
    options.form.warn_of_cut(sample["finish"] for sample in transcript.samples())
    if options.json:
        about = {"checkpoint": options.checkpoint, "step": step, "seed": options.seed}
        about |= {**decoder.account(), "samples": transcript.samples()}
        print(json.dumps(about, ensure_ascii=False))


def _check(options: GenerateOptions, stop: Sequence[str]) -> None:
    if "" in stop:
        raise UsageError("--stop must not be empty; leave it out for none")
    require_at_least(options, max_new_tokens=1, num_samples=1)
    require_seed(options.seed)


if __name__ == "__main__":
    run_verb(main)
