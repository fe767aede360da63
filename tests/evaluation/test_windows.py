"""Windows: every token is scored once, and pairs are cut as the rules say."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgpt.evaluation.windows import document_windows, encode_pair, pair_windows
from tests.evaluation.tiny_scoring import make_tokenizer

TOKENIZER = make_tokenizer()
IDS = st.lists(st.integers(5, 90), max_size=60)


@given(ids=IDS, max_length=st.integers(1, 20))
def test_a_document_is_scored_once_with_as_much_context_as_fits(ids: list, max_length: int) -> None:
    windows = document_windows(ids, 1, max_length)
    targets = [window.ids[-window.num_targets :] for window in windows]
    assert list(itertools.chain(*targets)) == ids
    whole, seen = [1, *ids], 1
    for window in windows:
        seen += window.num_targets
        assert 0 < window.num_targets < len(window.ids)
        # What stands before the targets, up to the length that fits.
        assert list(window.ids) == whole[:seen][-max_length - 1 :]
    assert all(window.num_targets == max_length for window in windows[:-1])


@given(context=IDS.filter(bool), continuation=IDS.filter(bool), max_length=st.integers(1, 20))
def test_a_pair_loses_its_beginning_and_never_its_continuation(
    context: list, continuation: list, max_length: int
) -> None:
    windows, num_cut = pair_windows(context, continuation, max_length)
    targets = [window.ids[-window.num_targets :] for window in windows]
    assert list(itertools.chain(*targets)) == continuation
    assert all(len(window.ids) <= max_length + 1 for window in windows)
    if len(continuation) <= max_length:
        (window,) = windows
        assert list(window.ids) == (context + continuation)[num_cut:]
        assert num_cut == max(0, len(context + continuation) - max_length - 1)
    else:
        assert windows[0].ids[0] == context[-1]


@given(context=st.text(max_size=12), continuation=st.text(min_size=1, max_size=12))
def test_a_pair_is_encoded_as_one_text(context: str, continuation: str) -> None:
    before, after = encode_pair(TOKENIZER, context, continuation, add_bos=True)
    assert before[0] == TOKENIZER.bos_id
    assert after
    whole = [TOKENIZER.bos_id, *TOKENIZER.encode(context + continuation)]
    assert after == whole[len(before) :]
    alone = [TOKENIZER.bos_id, *TOKENIZER.encode(context.rstrip())]
    # They differ only where one piece reaches over the end of the context.
    assert before == alone or len(whole) <= len(alone)


def test_spaces_move_to_the_continuation_and_bos_can_be_left_out() -> None:
    for add_bos, start in ((True, [TOKENIZER.bos_id]), (False, [])):
        given_after = encode_pair(TOKENIZER, "the cat ", "sees", add_bos)
        assert given_after == encode_pair(TOKENIZER, "the cat", " sees", add_bos)
        assert given_after[0] == start + TOKENIZER.encode("the cat")
        # Without a context there is nothing else that a first token could be scored from.
        assert encode_pair(TOKENIZER, "", "cat", add_bos)[0] == [TOKENIZER.bos_id]
    with pytest.raises(ValueError, match="empty continuation"):
        encode_pair(TOKENIZER, "the cat", "", add_bos=True)
