"""Messages from a person: lines of a terminal with an editor, or of a pipe without one."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxgpt.errors import UsageError
from jaxgpt.names.packages import import_package, install_advice

_MORE = "\\"


def make_reader(prompt: str, history_file: Path | None) -> Callable[[], str]:
    """Return a function that reads a message.

    It raises EOFError at the end of the input (Ctrl-D), and KeyboardInterrupt at Ctrl-C. A line
    that ends in a backslash goes on with the next line.

    Args:
        prompt: printed before a message, on a terminal.
        history_file: where messages are kept for the arrow keys; a new file is the owner's alone.
            None: they are kept for this process.

    Raises:
        UsageError: the history cannot be read and written.
        ConfigError: the input is a terminal, and its editor is not installed.
    """
    return _editor(prompt, history_file) if sys.stdin.isatty() else _read_lines


def _read_lines() -> str:
    lines = []
    while True:
        line = sys.stdin.readline()
        if not line and not lines:
            raise EOFError
        line = line.removesuffix("\n")
        if not line.endswith(_MORE):
            return "\n".join([*lines, line])
        lines.append(line.removesuffix(_MORE))


def _editor(prompt: str, history_file: Path | None) -> Callable[[], str]:
    """Return the `prompt` of a session of prompt_toolkit: Enter sends, Alt+Enter begins a line."""
    advice = f"{install_advice('chat')}, or pipe the messages in"
    toolkit: Any = import_package("prompt_toolkit", "chat in a terminal", advice)
    bindings: Any = import_package("prompt_toolkit.key_binding", "chat", advice).KeyBindings()
    history: Any = import_package("prompt_toolkit.history", "chat", advice)

    @bindings.add("enter")
    def send(event: Any) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith(_MORE):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def begin_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    if history_file is None:
        kept = history.InMemoryHistory()
    else:
        _prepare(history_file)
        kept = history.FileHistory(str(history_file))
    session = toolkit.PromptSession(
        prompt, multiline=True, key_bindings=bindings, history=kept, prompt_continuation=""
    )
    return session.prompt


def _prepare(history_file: Path) -> None:
    """Make the file if there is none; later errors of it would come after each message."""
    try:
        os.close(os.open(history_file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600))
    except OSError as error:
        raise UsageError(
            f"the history file {history_file} cannot be read and written: "
            f"{error.strerror or error}; name another one, or leave --history-file out"
        ) from None
