"""The commands of a chat: lines that begin with a slash, and what each does."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from jaxgpt.config import replace
from jaxgpt.errors import UsageError, did_you_mean
from jaxgpt.inference.chat.conversation import Conversation


class Leave(Exception):
    """Raised by the command that ends the chat."""


class Command(NamedTuple):
    """A command.

    Attributes:
        usage: what follows its name.
        about: what it does.
        run: gets the conversation and what follows the name; returns an answer, or lines to print.
    """

    usage: str
    about: str
    run: Callable[[Conversation, str], Iterator[str]]


def run_command(conversation: Conversation, line: str) -> Iterator[str]:
    """Run a line that begins with a slash; yield what is to be printed.

    Raises:
        Leave: the chat is over.
        UsageError: there is no such command, or what follows it is wrong.
        JaxgptError: the model cannot answer.
    """
    name, _, rest = line.removeprefix("/").partition(" ")
    if name not in COMMANDS:
        raise UsageError(f"no command /{name}{did_you_mean(name, COMMANDS)} (/help lists all)")
    return COMMANDS[name].run(conversation, rest.strip())


def _help(conversation: Conversation, rest: str) -> Iterator[str]:
    rows = [(f"/{name} {each.usage}".rstrip(), each.about) for name, each in COMMANDS.items()]
    width = max(len(shown) for shown, _ in rows)
    yield from (f"{shown:{width}}  {about}\n" for shown, about in rows)
    yield "Alt+Enter, or a backslash at the end of a line, begins another line of a message.\n"


def _reset(conversation: Conversation, rest: str) -> Iterator[str]:
    conversation.reset()
    yield "the conversation begins again\n"


def _system(conversation: Conversation, rest: str) -> Iterator[str]:
    conversation.settings = replace(conversation.settings, system=rest)
    conversation.reset()
    yield f"{'another' if rest else 'no'} system message; the conversation begins again\n"


def _regenerate(conversation: Conversation, rest: str) -> Iterator[str]:
    return conversation.ask_again()


def _save(conversation: Conversation, rest: str) -> Iterator[str]:
    if not rest:
        raise UsageError("name a file: /save FILE")
    conversation.save(Path(rest).expanduser())
    yield f"saved to {rest}\n"


def _set(conversation: Conversation, rest: str) -> Iterator[str]:
    name, _, value = rest.partition(" ")
    if name and not value.strip():
        raise UsageError(f"give a value: /set {name} VALUE")
    if name:
        conversation.settings = conversation.settings.with_value(name, value.strip())
    for known, current in conversation.settings.values().items():
        if not name or known == name.replace("-", "_"):
            shown = json.dumps(current) if isinstance(current, tuple) else current
            yield f"{known} = {shown}\n"


def _exit(conversation: Conversation, rest: str) -> Iterator[str]:
    raise Leave


COMMANDS = {
    "help": Command("", "list the commands", _help),
    "reset": Command("", "forget the conversation", _reset),
    "system": Command("[TEXT]", "begin again with this system message, or with none", _system),
    "regenerate": Command("", "answer the last message once more, with another seed", _regenerate),
    "save": Command("FILE", "write the conversation as JSON, or as Markdown (.md)", _save),
    "set": Command("[NAME VALUE]", "change a setting, or list them: /set temperature 0.7", _set),
    "exit": Command("", "leave, as Ctrl-D does", _exit),
}
