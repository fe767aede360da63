"""`jaxgpt VERB ...`: the same as `python -m jaxgpt.VERB ...`."""

import importlib
import sys

from jaxgpt.command_line import run_verb
from jaxgpt.errors import did_you_mean

VERBS = {
    "train": "train a model, or continue a run",
    "eval": "loss, perplexity and bits per byte of a checkpoint",
    "plan": "what a run needs, before it is started",
    "generate": "continue a text with a checkpoint",
    "verify": "whether the files of a run are what was written",
    "supervise": "run a command again whenever it ends unfinished",
    "quickstart": "the whole way on this machine's own text, in minutes",
}


def main() -> None:
    """Find the verb and hand over; the verb's module is imported only then."""
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb in VERBS:
        run_verb(importlib.import_module(f"jaxgpt.{verb}").main, sys.argv[2:])
        return
    wants_help = verb in ("-h", "--help")
    lines = ["usage: jaxgpt VERB [options]", ""]
    lines += [f"  {name:12} {text}" for name, text in VERBS.items()]
    lines += ["", "`jaxgpt VERB --help` lists a verb's options."]
    if wants_help:
        print("\n".join(lines))
        return
    if verb:
        print(f"error: no verb {verb!r}{did_you_mean(verb, VERBS)}", file=sys.stderr)
    print("\n".join(lines), file=sys.stderr)
    sys.exit(2)
