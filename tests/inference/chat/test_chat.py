"""A chat in the terminal: conversation, commands, the loop around them."""

import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from jaxgpt.errors import BadInputError, ConfigError, UsageError
from jaxgpt.inference.chat.commands import COMMANDS, Leave, run_command
from jaxgpt.inference.chat.conversation import Conversation
from jaxgpt.inference.chat.line_reader import make_reader
from jaxgpt.inference.chat.loop import run_chat
from jaxgpt.inference.chat.settings import ChatSettings
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.inference.text_generation import HealedPrompt, TextPiece
from jaxgpt.tokenizer.chat_template import ChatTemplate, Message
from jaxgpt.tokenizer.tokenizer import Tokenizer
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer
from tests.tiny import make_texts

MODULE = "jaxgpt.inference.chat.conversation"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(make_texts(100), TokenizerConfig(vocab_size=300))


class Model:
    """Stands in for the decoder: answers with the seed and the number of messages."""

    def __init__(self) -> None:
        self.prompts: list[HealedPrompt] = []
        self.error: BaseException | None = None
        self.begins = True
        self.is_closed = False

    def stream(
        self,
        decoder: Any,
        tokenizer: Tokenizer,
        prompts: Sequence[HealedPrompt],
        number: int,
        sampling: SamplingConfig,
        seed: int,
    ) -> Iterator[TextPiece]:
        self.prompts += prompts
        self.is_closed = False
        try:
            if self.begins:
                yield TextPiece(0, f"seed {seed},", None)
            if self.error is not None:
                raise self.error
            yield TextPiece(0, f" {number} at {sampling.temperature}", "length")
        finally:
            self.is_closed = True


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model()
    monkeypatch.setattr(f"{MODULE}.stream_text", model.stream)
    monkeypatch.setattr(f"{MODULE}.choose_length", lambda *given: given[-1] or 256)
    return model


@pytest.fixture
def conversation(tokenizer: Tokenizer, model: Model) -> Conversation:
    def encode(tokenizer: Tokenizer, messages: Sequence[Message]) -> HealedPrompt:
        return HealedPrompt(ChatTemplate(tokenizer).render_prompt(messages).tolist(), b"", 0)

    decoder: Any = None
    return Conversation(decoder, tokenizer, encode, ChatSettings(system="Be short."))


def _chat(conversation: Conversation, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    run_chat(conversation, make_reader("> ", None))


def test_each_answer_follows_all_that_was_said(
    conversation: Conversation, model: Model, tokenizer: Tokenizer, monkeypatch, capsys
) -> None:
    _chat(conversation, monkeypatch, "the cat\n\nthe dog\\\nand more\n//help\n")
    assert capsys.readouterr().out == "seed 0, 256 at 0.7\n" * 3
    parsed = ChatTemplate(tokenizer).parse(model.prompts[-1].ids)
    assert [(each.role, each.content) for each in parsed] == [
        ("system", "Be short."),
        ("user", "the cat"),
        ("assistant", "seed 0, 256 at 0.7"),
        ("user", "the dog\nand more"),
        ("assistant", "seed 0, 256 at 0.7"),
        ("user", "/help"),
    ]


def test_commands_change_what_comes_next(
    conversation: Conversation, model: Model, monkeypatch, capsys
) -> None:
    lines = ["one", "/set temperature 0", "/set max-new-tokens 5", "/regenerate", "two",
             "/system Be long.", "three", "/reset", "/set seed 9", "four", "/exit",
             "five"]  # fmt: skip
    _chat(conversation, monkeypatch, "\n".join(lines))
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "seed 0, 256 at 0.7",
        "temperature = 0.0",
        "max_new_tokens = 5",
        "seed 1, 5 at 0.0",
        "seed 1, 5 at 0.0",
        "another system message; the conversation begins again",
        "seed 1, 5 at 0.0",
        "the conversation begins again",
        "seed = 9",
        "seed 9, 5 at 0.0",
    ]
    assert [message.content for message in conversation.messages] == ["four", "seed 9, 5 at 0.0"]
    assert conversation.settings.system == "Be long."


def test_every_command_is_listed(conversation: Conversation) -> None:
    listed = re.findall(r"^/(\w+)", "".join(run_command(conversation, "/help")), re.MULTILINE)
    assert listed == list(COMMANDS)
    with pytest.raises(Leave):
        run_command(conversation, "/exit")
    assert "top_p = 1.0\n" in list(run_command(conversation, "/set"))


@pytest.mark.parametrize(
    ("typed", "shown"),
    [('["\\n", ";"]', '["\\n", ";"]'), (";", '[";"]'), ("none", "[]")],
)
def test_texts_are_set_as_they_are_shown(
    conversation: Conversation, typed: str, shown: str
) -> None:
    name = "dry_sequence_breakers"
    assert list(run_command(conversation, f"/set {name} {typed}")) == [f"{name} = {shown}\n"]
    assert list(conversation.settings.sampling.dry_sequence_breakers) == json.loads(shown)


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("/hepl", UsageError, r"no command /hepl; did you mean 'help'\? \(/help lists all\)"),
        ("/set tempreature 1", UsageError, "no setting 'tempreature'; did you mean 'temperature'"),
        ("/set temperature", UsageError, "give a value: /set temperature VALUE"),
        ("/set temperature -1", ConfigError, r"temperature = -1.0; allowed: 0"),
        ("/set temperature hot", ConfigError, "temperature = 'hot'"),
        ("/set max_new_tokens 0", ConfigError, "max_new_tokens = 0; allowed: at least 1, or None"),
        (r'/set dry_sequence_breakers ["\ud800"]', ConfigError, "a text with a lone surrogate"),
        ("/set seed -1", ConfigError, r"seed = -1; allowed: from 0 to 2\*\*64 - 1"),
        ("/save", UsageError, "name a file: /save FILE"),
        ("/save /nowhere/at/all", UsageError, "cannot be written"),
        ("/regenerate", UsageError, "nothing was asked yet"),
    ],
)
def test_a_wrong_command_changes_nothing(
    conversation: Conversation, line: str, error: type[Exception], message: str
) -> None:
    before = conversation.settings
    with pytest.raises(error, match=message):
        list(run_command(conversation, line))
    assert conversation.settings == before
    assert conversation.messages == []


def test_a_conversation_is_saved_as_an_example_or_to_read(
    conversation: Conversation, tmp_path: Path
) -> None:
    answer = "".join(conversation.ask("the cät"))
    list(run_command(conversation, f"/save {tmp_path}/a b.jsonl"))
    assert json.loads((tmp_path / "a b.jsonl").read_text("utf-8"))["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "the cät"},
        {"role": "assistant", "content": answer},
    ]
    list(run_command(conversation, f"/save {tmp_path}/read.md"))
    written = (tmp_path / "read.md").read_text("utf-8")
    assert written.endswith(f"## User\n\nthe cät\n\n## Assistant\n\n{answer}\n")


def test_an_answer_that_is_stopped_stays_and_one_that_fails_does_not(
    conversation: Conversation, model: Model, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("sys.stdin", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    texts = iter(["one", "two", "three"])

    def read() -> str:
        text = next(texts, None)
        if text is None:
            raise EOFError
        model.error = {"one": KeyboardInterrupt(), "two": BadInputError("no")}.get(text)
        return text

    run_chat(conversation, read)
    printed = capsys.readouterr()
    assert printed.out.startswith("seed 0,\n(stopped; Ctrl-D or /exit leaves)\n")
    assert printed.err == "error: no\n"
    said = [message.content for message in conversation.messages]
    assert said == ["one", "seed 0,", "three", "seed 0, 256 at 0.7"]
    assert model.is_closed


def test_nothing_stays_of_an_answer_that_is_stopped_before_it_begins(
    conversation: Conversation, model: Model
) -> None:
    model.begins, model.error = False, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        list(conversation.ask("one"))
    assert conversation.messages == []
    model.begins, model.error = True, None
    list(conversation.ask("two"))
    before = list(conversation.messages)
    model.begins, model.error = False, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        list(conversation.ask_again())
    assert conversation.messages == before


def test_a_history_that_cannot_be_kept_is_refused_at_the_beginning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("prompt_toolkit", reason="needs: pip install -e '.[chat]'")
    monkeypatch.setattr("sys.stdin", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    for path in (tmp_path, tmp_path / "nowhere" / "history"):
        with pytest.raises(UsageError, match=r"the history file .* cannot be read and written"):
            make_reader("> ", path)
    kept = tmp_path / "history"
    # An editor needs a real terminal.
    monkeypatch.setattr("prompt_toolkit.PromptSession", mock.Mock())
    make_reader("> ", kept)
    # What is typed may be private.
    assert kept.stat().st_mode & 0o777 == 0o600


def test_in_a_pipe_an_error_ends_the_chat(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no command /nothing"):
        _chat(conversation, monkeypatch, "/nothing\none\n")
    assert conversation.messages == []


def test_text_of_the_model_cannot_control_the_terminal(
    conversation: Conversation, model: Model, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    evil = "a\x1b[2J\r\x07\x9b b\n\tc"
    monkeypatch.setattr(f"{MODULE}.stream_text", lambda *given: iter([TextPiece(0, evil, "stop")]))
    monkeypatch.setattr(f"{MODULE}.closing", lambda pieces: io.StringIO())
    _chat(conversation, monkeypatch, "one\n")
    assert capsys.readouterr().out == "a\ufffd[2J\ufffd\ufffd\ufffd b\n\tc\n"
    assert conversation.messages[-1].content == evil
