"""The loop of a chat: read a message, print its answer as it comes, until the person leaves."""

import sys
from collections.abc import Callable, Iterator
from contextlib import closing

from jaxgpt.errors import JaxgptError
from jaxgpt.inference.chat.commands import Leave, run_command
from jaxgpt.inference.chat.conversation import Conversation

# Control characters, which could move the cursor or change the terminal.
_SHOWN = dict.fromkeys((*range(32), *range(127, 160)), "�")
del _SHOWN[ord("\n")], _SHOWN[ord("\t")]


def run_chat(conversation: Conversation, read: Callable[[], str]) -> None:
    """Chat until the input ends or `/exit` is typed.

    Ctrl-C stops an answer, or drops what is being typed.

    Args:
        conversation: what was said so far.
        read: returns a message; see `make_reader`.

    Raises:
        KeyboardInterrupt: Ctrl-C while a pipe is read.
        JaxgptError: of the model or the input, where nobody is there to try something else.
    """
    is_attended = sys.stdin.isatty()
    while True:
        try:
            line = read()
            if line.strip():
                _print(_answer(conversation, line))
        except (EOFError, Leave):
            return
        except KeyboardInterrupt:
            if not is_attended:
                raise
            print("\n(stopped; Ctrl-D or /exit leaves)", flush=True)
        except JaxgptError as error:
            if not is_attended:
                raise
            print(f"error: {error}", file=sys.stderr, flush=True)


def _answer(conversation: Conversation, line: str) -> Iterator[str]:
    # Two slashes begin a message that begins with one.
    if line.startswith("/") and not line.startswith("//"):
        yield from run_command(conversation, line)
    else:
        yield from conversation.ask(line.removeprefix("/") if line.startswith("//") else line)


def _print(texts: Iterator[str]) -> None:
    last = "\n"
    with closing(texts):  # type: ignore[type-var]
        for text in texts:
            print(text.translate(_SHOWN), end="", flush=True)
            last = text or last
    if not last.endswith("\n"):
        print(flush=True)
