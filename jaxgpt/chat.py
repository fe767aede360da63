"""`python -m jaxgpt.chat --checkpoint RUN`: talk with a checkpoint in the terminal."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from jaxgpt.command_line import parse_options, run_verb
from jaxgpt.inference.chat.conversation import Conversation
from jaxgpt.inference.chat.line_reader import make_reader
from jaxgpt.inference.chat.loop import run_chat
from jaxgpt.inference.chat.settings import ChatSettings
from jaxgpt.inference.sliding import SlidingDecoder
from jaxgpt.runs.decoding import DecodingOptions

_NO_PREFIX = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Talk with a trained model; /help lists what can be typed.

    Messages that are piped in are answered one after another.
    """

    checkpoint: str
    """Run folder, as written by jaxgpt.finetune or jaxgpt.train, or its URL."""
    step: str = "latest"
    """Checkpoint: latest, best (lowest validation loss), or a step's number."""
    slide_window: bool = False
    """Sliding window beyond the model's context; the oldest tokens are forgotten."""
    history_file: Path | None = None
    """File that keeps messages for the arrow keys of later chats; None: they are not kept."""
    decoding: Annotated[DecodingOptions, _NO_PREFIX] = field(default_factory=DecodingOptions)
    settings: Annotated[ChatSettings, _NO_PREFIX] = field(default_factory=ChatSettings)


def main(argv: Sequence[str]) -> None:
    """Parse, restore, chat."""
    default = ChatOptions(checkpoint=tyro.MISSING)
    options = parse_options(ChatOptions, argv, "jaxgpt chat", default)
    read = make_reader("> ", options.history_file)
    run, step, decoder = options.decoding.open(options.checkpoint, options.step)
    conversation = Conversation(
        SlidingDecoder(decoder) if options.slide_window else decoder,
        run.tokenizer,
        run.config.encode_conversation,
        options.settings,
    )
    about = f"{options.checkpoint}, step {step} ({run.config.prompt_form})"
    print(f"{about}; /help lists commands, Ctrl-D leaves", file=sys.stderr, flush=True)
    run_chat(conversation, read)


if __name__ == "__main__":
    run_verb(main)
