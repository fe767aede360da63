"""`jaxgpt number-examples --output FILE`: sums, or numbers in words -> examples of a job."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxgpt.command_line import parse_options, require_at_least, require_seed
from jaxgpt.errors import UsageError
from jaxgpt.finetuning.numbers import JOBS, MAX_DIGITS
from jaxgpt.storage.durable import write_atomically


@dataclass(frozen=True, kw_only=True)
class NumberExamplesOptions:
    """Make examples for fine-tuning about numbers; no two are equal."""

    output: Path
    """File to write, one JSON object a line."""
    job: Literal["addition", "words", "translation"] = "addition"
    """Job that the examples teach. addition: 37+58 and 95; words: 58 and fifty-eight; translation:
    fifty-eight and achtundfünfzig, as fields source and target."""
    digits: int = 2
    """Digits of both numbers that are added; of other numbers the most digits."""
    languages: tuple[str, ...] = ("en", "de")
    """Languages of the words, as num2words names them: the first one, or from the first to the
    second."""
    num_examples: int = 5000
    """Most examples; fewer where there are not that many numbers."""
    seed: int = 0
    """Seed of the draw, on which the file depends."""


def main(argv: Sequence[str]) -> None:
    """Parse, draw, write."""
    options = parse_options(NumberExamplesOptions, argv, prog="jaxgpt number-examples")
    require_at_least(options, digits=1, num_examples=1)
    require_seed(options.seed)
    if options.digits > MAX_DIGITS:
        raise UsageError(f"--digits {options.digits} must be at most {MAX_DIGITS}")
    job = JOBS[options.job]
    languages = options.languages[: job.num_languages]
    if len(set(languages)) < job.num_languages:
        raise UsageError(
            f"--languages {' '.join(options.languages)}: {options.job} needs {job.num_languages} "
            "different ones, such as en de"
        )
    rng = random.Random(options.seed)
    rows = list(job.make_rows(options.digits, languages, options.num_examples, rng))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_atomically(options.output, "".join(lines))
    print(f"{options.output}: {len(rows):,} examples of {options.job}")
