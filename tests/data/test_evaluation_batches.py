"""Evaluation: every token predicted exactly once, with the context that its row holds."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.data.loader import count_evaluation_batches, evaluation_batches
from tests.data.fake_split import FakeSplit


@st.composite
def splits(draw):
    lengths = draw(st.lists(st.integers(2, 9), min_size=1, max_size=8))
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return FakeSplit(sum(lengths), starts), starts


SIZES = {"sequence_length": st.integers(1, 9), "batch_size": st.integers(1, 4)}


@settings(max_examples=60, deadline=None)
@given(
    made=splits(), **SIZES, mask_documents=st.booleans(), max_tokens=st.none() | st.integers(1, 40)
)
def test_every_token_but_first_ones_is_predicted_once(
    made, sequence_length, batch_size, mask_documents, max_tokens
):
    split, starts = made
    predicted = []
    batches = evaluation_batches(split, sequence_length, batch_size, max_tokens, mask_documents)
    batches = list(batches)
    for batch in batches:
        assert {array.shape for array in batch[:5]} == {(batch_size, sequence_length)}
        counted = batch.loss_weights_BT > 0
        assert np.array_equal(batch.loss_weights_BT, counted)
        assert np.array_equal(batch.targets_BT[counted], batch.tokens_BT[counted] + 1)
        assert (batch.segment_ids_BT[counted] > 0).all()
        predicted += batch.targets_BT[counted].tolist()
    num_tokens = split.num_tokens if max_tokens is None else min(max_tokens, split.num_tokens)
    assert predicted == [token for token in range(num_tokens) if token not in starts]
    count = count_evaluation_batches(split, sequence_length, batch_size, max_tokens)
    assert len(batches) == count


@settings(max_examples=60, deadline=None)
@given(made=splits(), **SIZES, mask_documents=st.booleans())
def test_context_is_the_row_within_the_document_if_masked(
    made, sequence_length, batch_size, mask_documents
):
    split, starts = made
    for batch in evaluation_batches(split, sequence_length, batch_size, None, mask_documents):
        for tokens, segments, positions in zip(
            batch.tokens_BT, batch.segment_ids_BT, batch.positions_BT, strict=True
        ):
            present = segments > 0
            ids = tokens[present]  # ids are positions in the split
            assert (np.diff(ids) == 1).all()
            begins = starts if mask_documents else [0]
            documents = np.searchsorted(begins, ids, side="right")
            together = documents[:, None] == documents
            assert np.array_equal(segments[present][:, None] == segments[present], together)
            first = [ids[documents == document][0] for document in documents]
            assert np.array_equal(positions[present], ids - first)


def test_padding_is_blank():
    (batch,) = evaluation_batches(FakeSplit(7), sequence_length=4, batch_size=3)
    assert batch.tokens_BT[1].tolist() == [4, 5, 6, 0]
    assert batch.loss_weights_BT.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert batch.segment_ids_BT.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]]


def test_a_split_without_a_second_token_has_no_batches():
    assert list(evaluation_batches(FakeSplit(1), 4, 2)) == []
    assert list(evaluation_batches(FakeSplit(0, starts=()), 4, 2)) == []
