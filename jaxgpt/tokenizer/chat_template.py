"""The chat template: messages -> ids and target weights, and back.

A conversation is BOS, then for each message the id of its role, the ids of its content and the id
of `end`. A prompt goes on with the assistant's id, after which the model answers. Predicted are the
content and the `end` of the assistant's messages, so that a model learns to stop.

Ids are put together part by part; a rendered string is never encoded. So a typed `<|end|>` stays
text, as the tokenizer never makes a control id of text. Tools are text in messages: tool_calls.py
writes them. jinja_template.py is the same template for other programs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxgpt.errors import BadInputError, MismatchError
from jaxgpt.tokenizer.sequences import NO_ID, Parts, assemble
from jaxgpt.tokenizer.tokenizer import Tokenizer

SYSTEM, USER, ASSISTANT = ROLES = ("system", "user", "assistant")
ORDER = "an optional system message first, then user and assistant in turn"


def stop_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids that end a message or a text."""
    return (tokenizer.special_ids.get("end", tokenizer.eos_id), tokenizer.eos_id)


def control_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids that the template alone uses; texts of documents have none of them."""
    names = [name for name in (*ROLES, "end") if name in tokenizer.special_ids]
    return tuple(sorted({tokenizer.special_ids[name] for name in names}))


class Message(NamedTuple):
    """One message. `train` says whether an assistant's message is predicted."""

    role: str
    content: str
    train: bool = True


def check_order(messages: Sequence[Message], last: str) -> None:
    """Check that roles come in their order and that the last message is of the role `last`.

    Raises:
        BadInputError: they do not; the first message out of order is named.
    """
    has_system = bool(messages) and messages[0].role == SYSTEM
    for number, message in enumerate(messages):
        turn = (number - has_system) % 2
        due = SYSTEM if number < has_system else (USER, ASSISTANT)[turn]
        if message.role != due:
            raise BadInputError(
                f"message {number + 1} is of role {message.role!r}, where {due!r} is due; "
                f"allowed: {ORDER}"
            )
    if not messages or messages[-1].role != last:
        found = f"ends with {messages[-1].role!r}" if messages else "has no message"
        raise BadInputError(f"the conversation {found}; its last message must be of role {last!r}")


class ChatTemplate:
    """The chat template over the ids of a tokenizer.

    Attributes:
        tokenizer: what encodes contents.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Find the ids of the roles.

        Raises:
            MismatchError: an imported tokenizer has none.
        """
        if missing := sorted({*ROLES, "end"} - tokenizer.special_ids.keys()):
            raise MismatchError(
                f"the tokenizer has no control tokens for {', '.join(missing)}, which "
                "conversations need; import the model again with --chat-tokens"
            )
        self.tokenizer = tokenizer
        self._roles = {role: tokenizer.special_ids[role] for role in ROLES}
        self._end = tokenizer.special_ids["end"]

    def frame(self, role: str | None) -> tuple[int, int]:
        """Return the ids before and after the content of a message.

        None stands for a plain text, which has no id before it and EOS after it.
        """
        return (NO_ID, self.tokenizer.eos_id) if role is None else (self._roles[role], self._end)

    def render(self, messages: Sequence[Message]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of a whole conversation and the weight of each as a target.

        Returns:
            int32 and float32, of one length.

        Raises:
            BadInputError: roles are out of order, the conversation does not end with the assistant,
                or a content has a lone surrogate.
        """
        check_order(messages, ASSISTANT)
        return self._render(messages)

    def render_prompt(self, messages: Sequence[Message]) -> np.ndarray:
        """Return the ids after which the model answers, int32: they end with the assistant's id.

        Raises:
            BadInputError: as `render`; the conversation must end with the user.
        """
        check_order(messages, USER)
        return np.append(self._render(messages)[0], np.int32(self._roles[ASSISTANT]))

    def parse(
        self, ids: Sequence[int] | np.ndarray, weights: np.ndarray | None = None
    ) -> list[Message]:
        """Return the messages of ids that `render` or `render_prompt` gave.

        Args:
            ids: of one conversation.
            weights: those of `render`; without them every `train` is True. That of other roles is.

        Raises:
            BadInputError: the ids are no conversation of whole messages.
        """
        ids = [int(id) for id in ids]
        names = {id: role for role, id in self._roles.items()}
        if ids[:1] != [self.tokenizer.bos_id]:
            raise BadInputError("the ids are no conversation: they do not begin with BOS")
        if len(ids) > 1 and ids[-1] == self._roles[ASSISTANT]:
            ids.pop()
        messages, place = [], 1
        while place < len(ids):
            if (role := names.get(ids[place])) is None:
                raise BadInputError(f"id {ids[place]} at {place} is no role: no message begins so")
            if self._end not in ids[place:]:
                raise BadInputError(f"the message that begins at id {place} has no end")
            stop = ids.index(self._end, place)
            content = ids[place + 1 : stop]
            if found := set(content) & set(self.tokenizer.special_ids.values()):
                raise BadInputError(f"control id {min(found)} inside a message, from id {place}")
            train = role != ASSISTANT or weights is None or bool(weights[stop])
            messages.append(Message(role, self.tokenizer.decode(content), train))
            place = stop + 1
        return messages

    def _render(self, messages: Sequence[Message]) -> tuple[np.ndarray, np.ndarray]:
        contents_N, offsets_M1 = self.tokenizer.encode_to_array([each.content for each in messages])
        openings_M, closings_M = np.array([self.frame(each.role) for each in messages], np.int32).T
        parts = Parts(
            contents_N=contents_N,
            starts_M=offsets_M1[:-1],
            stops_M=offsets_M1[1:],
            openings_M=openings_M,
            closings_M=closings_M,
            is_target_M=np.array([each.role == ASSISTANT and each.train for each in messages]),
            num_parts_S=np.array([len(messages)]),
        )
        tokens_L, weights_L, _ = assemble(parts, self.tokenizer.bos_id)
        return tokens_L, weights_L
