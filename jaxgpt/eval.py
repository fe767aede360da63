"""`python -m jaxgpt.eval --checkpoint RUN`: loss and perplexity of a checkpoint, and tasks."""

from collections.abc import Sequence

from jaxgpt.command_line import parse_options, require_at_least, run_verb
from jaxgpt.distributed.hosts import is_first_host, joined_hosts
from jaxgpt.evaluation.runner.result_text import result_text
from jaxgpt.runs.evaluation.evaluate import EvalOptions, evaluate


def main(argv: Sequence[str]) -> None:
    """Parse, restore, score."""
    options = parse_options(EvalOptions, argv, prog="jaxgpt eval")
    require_at_least(options, batch_size=1, sequence_length=1, max_tokens=2)
    with joined_hosts(options.hosts):
        result = evaluate(options)
        if is_first_host():
            print(result_text(result, options.json))


if __name__ == "__main__":
    run_verb(main)
