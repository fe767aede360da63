"""Text to windows: token ids that a model reads at once, the last of which are scored.

The rules are those of lm-evaluation-harness 0.4.13, so that scores can be compared:

- the pair of a context and a continuation is encoded as one text and cut where the ids of the
  context alone end; spaces at the end of the context move to the continuation;
- what is too long loses its beginning;
- a document is cut into windows that score every token once, and the last window takes as much
  context as there is room for.

Plain Python, no arrays.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxgpt.tokenizer.tokenizer import Tokenizer


class Window(NamedTuple):
    """Consecutive tokens that fit into the context of a model.

    Attributes:
        ids: token ids; the model reads all but the last one.
        num_targets: number of ids at the end that are scored, each from the ids before it.
    """

    ids: tuple[int, ...]
    num_targets: int


def encode_pair(
    tokenizer: Tokenizer, context: str, continuation: str, add_bos: bool
) -> tuple[list[int], list[int]]:
    """Return the ids of a context and of its continuation; neither is empty.

    Args:
        tokenizer: the model's.
        context: text before the continuation; an empty one becomes the BOS token.
        continuation: text to score, with the space that separates it from the context.
        add_bos: whether the context begins with the BOS token.

    Raises:
        ValueError: the continuation is empty.
        BadInputError: a text has a lone surrogate.
    """
    if not continuation:
        raise ValueError("an empty continuation cannot be scored")
    num_spaces = len(context) - len(context.rstrip())
    if num_spaces:
        context, continuation = context[:-num_spaces], context[-num_spaces:] + continuation
    start = [tokenizer.bos_id] if add_bos or not context else []
    before = start + tokenizer.encode(context)
    whole = start + tokenizer.encode(context + continuation)
    # A piece may reach from the context into the continuation: its last token is scored at least.
    # The harness stops there.
    if len(whole) <= len(before):
        return whole[:-1] or [tokenizer.bos_id], whole[-1:]
    return before, whole[len(before) :]


def pair_windows(
    context_ids: Sequence[int], continuation_ids: Sequence[int], max_length: int
) -> tuple[list[Window], int]:
    """Return the windows that score a continuation, and the number of ids cut from the context.

    There is one window, unless the continuation alone is longer than `max_length`: then its tokens
    are scored as those of a document are.

    Args:
        context_ids: at least one id.
        continuation_ids: at least one id.
        max_length: most tokens that the model reads at once.
    """
    num_targets = len(continuation_ids)
    if num_targets > max_length:
        windows = document_windows(continuation_ids, context_ids[-1], max_length)
        return windows, len(context_ids) - 1
    ids = [*context_ids, *continuation_ids]
    num_cut = max(0, len(ids) - max_length - 1)
    return [Window(tuple(ids[num_cut:]), num_targets)], num_cut


def document_windows(ids: Sequence[int], first: int, max_length: int) -> list[Window]:
    """Return windows that together score every id once.

    Each window but the last reads `max_length` new tokens. The last one reads `max_length` tokens
    too, and scores only those that are left.

    Args:
        ids: ids of a text; none gives no window.
        first: id that the first one is scored from, the BOS token.
        max_length: most tokens that the model reads at once.
    """
    ids = [first, *ids]
    windows = []
    for start in range(1, len(ids), max_length):
        stop = min(start + max_length, len(ids))
        windows.append(Window(tuple(ids[max(0, stop - max_length - 1) : stop]), stop - start))
    return windows
