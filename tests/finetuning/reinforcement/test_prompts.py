"""Prompts in batches: what the model sees, groups side by side, numbers that never repeat."""

import numpy as np

from jaxgpt.data.loader import BatchConfig
from jaxgpt.finetuning.reinforcement.prompts import (
    REFERENCES,
    ROW_NUMBERS,
    HeldOutPrompts,
    PromptBatches,
)
from jaxgpt.finetuning.tokenized import TokenizedExamples

LENGTH = 8
# Prompts 1 2, 1 3 4 and 1 5 6 7 (after an answer of its own), and their right answers.
SEQUENCES = [([1, 2, 20, 21], [0, 0, 1, 1]), ([1, 3, 4, 22], [0, 0, 0, 1]),
             ([1, 5, 6, 7, 23], [0, 1, 1, 0, 1])]  # fmt: skip
EXAMPLES = TokenizedExamples(
    np.concatenate([ids for ids, _ in SEQUENCES]).astype(np.int32),
    np.concatenate([weights for _, weights in SEQUENCES]).astype(np.float32),
    np.cumsum([0, *(len(ids) for ids, _ in SEQUENCES)]),
)


def test_groups_are_side_by_side_and_each_pass_has_every_prompt() -> None:
    batches = PromptBatches(
        EXAMPLES, BatchConfig(sequence_length=LENGTH, global_batch_size=4), seed=0, group_size=2
    )
    assert batches.tokens_per_epoch == 3 * 2 * LENGTH
    seen, numbers = [], []
    for step in range(3):
        batch = batches.pick(step, range(4))
        assert batch.extras is not None
        np.testing.assert_array_equal(batch.tokens_BT[0::2], batch.tokens_BT[1::2])
        assert not batch.loss_weights_BT.any()
        seen += [tuple(row[row > 0]) for row in batch.tokens_BT[0::2]]
        numbers += batch.extras[ROW_NUMBERS][:, 0].tolist()
    prompts = {(1, 2), (1, 3, 4), (1, 5, 6, 7)}
    assert set(seen[:3]) == set(seen[3:]) == prompts
    assert numbers == list(range(12))
    part = batches.pick(1, [2, 0])
    whole = batches.pick(1, range(4))
    np.testing.assert_array_equal(part.tokens_BT, whole.tokens_BT[[2, 0]])
    with batches.iterate(2, [1]) as iterator:
        np.testing.assert_array_equal(next(iterator).tokens_BT, batches.pick(2, [1]).tokens_BT)


def test_held_out_prompts_come_once_with_their_answers() -> None:
    held_out = HeldOutPrompts(EXAMPLES, LENGTH)
    batches = list(held_out.batches(2))
    assert len(batches) == held_out.count_batches(2) == 2
    rows = [row for batch in batches for row in batch.tokens_BT[batch.segment_ids_BT[:, 0] > 0]]
    assert [tuple(row[row > 0]) for row in rows] == [(1, 2), (1, 3, 4), (1, 5, 6, 7)]
    assert batches[0].extras is not None
    references = [row[row >= 0].tolist() for row in batches[0].extras[REFERENCES]]
    assert references == [[20, 21], [22]]
    assert held_out.count_batches(2, max_tokens=LENGTH) == 1
    assert held_out.settings(max_tokens=LENGTH)["rows"] == 1
