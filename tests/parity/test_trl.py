"""Preference objectives equal TRL's on equal weights: the loss, and the gradient of each weight.

TRL pads each sequence to a row of its own; ours stand in one packed row.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgpt.batch import Batch
from jaxgpt.finetuning.log_probabilities import log_probabilities_of
from jaxgpt.finetuning.preference.answers import Answers
from jaxgpt.finetuning.preference.dpo import Dpo
from jaxgpt.finetuning.preference.ipo import Ipo
from jaxgpt.finetuning.preference.kto import DESIRABLE, Kto
from jaxgpt.finetuning.preference.objective import PreferenceObjective
from jaxgpt.finetuning.preference.orpo import Orpo
from jaxgpt.finetuning.preference.reference import REFERENCE, sum_answers
from jaxgpt.training.loss import LossConfig
from tests.finetuning.preference.examples import bring
from tests.parity import mapping
from tests.parity.families import FAMILIES, VOCAB_SIZE

torch = pytest.importorskip("torch", reason="needs pip install -e '.[parity]'")
pytest.importorskip("trl", reason="needs pip install -e '.[trl]'")
pytestmark = pytest.mark.slow

FAMILY = FAMILIES["llama"]
# (tokens of the prompt, of the first answer, of the second); prompts of a pair are equal.
EXAMPLES = [(5, 3, 7), (2, 9, 1), (4, 4, 4)]
LENGTH = 64


def _sequences() -> list[tuple[np.ndarray, int]]:
    """(ids, length of the prompt) of each sequence, the two of an example side by side."""
    rng = np.random.default_rng(0)
    found = []
    for prompt, *answers in EXAMPLES:
        ids = rng.integers(0, VOCAB_SIZE, prompt)
        found += [(np.append(ids, rng.integers(0, VOCAB_SIZE, one)), prompt) for one in answers]
    return found


def _packed(desirable: list[int]) -> Batch:
    rows = {name: np.zeros((1, LENGTH), np.int32) for name in ("ids", "targets", "segments", "at")}
    weights, good = np.zeros((2, 1, LENGTH), np.float32)
    start = 0
    for number, (ids, prompt) in enumerate(_sequences()):
        here = slice(start, start + len(ids))
        rows["ids"][0, here] = ids
        rows["targets"][0, here] = [*ids[1:], 0]
        rows["segments"][0, here] = number + 1
        rows["at"][0, here] = np.arange(len(ids))
        weights[0, start + prompt - 1 : start + len(ids) - 1] = 1
        good[0, here] = desirable[number // 2]
        start += len(ids)
    ids, targets, segments, places = rows.values()
    return Batch(ids, targets, segments, places, weights, {DESIRABLE: good})


def _padded(sequences: list[tuple[np.ndarray, int]], prefix: str = "") -> dict[str, Any]:
    shape = (len(sequences), max(len(ids) for ids, _ in sequences))
    ids_ST, real_ST, answer_ST = np.zeros((3, *shape), np.int64)
    for row, (ids, prompt) in enumerate(sequences):
        ids_ST[row, : len(ids)] = ids
        real_ST[row, : len(ids)] = 1
        answer_ST[row, prompt : len(ids)] = 1
    arrays = {"input_ids": ids_ST, "attention_mask": real_ST, "completion_mask": answer_ST}
    return {prefix + name: torch.from_numpy(value) for name, value in arrays.items()}


def _published() -> tuple[Any, Any]:
    """A model of transformers, and one near to it, which is the reference."""
    model, reference = FAMILY.build_published(), FAMILY.build_published()
    generator = torch.Generator().manual_seed(0)
    for weight in reference.parameters():
        weight.data += 0.02 * torch.randn(weight.shape, generator=generator)
    return model, reference


def _ours(
    objective: PreferenceObjective, model: Any, reference: Any, desirable: list[int]
) -> tuple[float, dict[str, np.ndarray]]:
    """Return the mean loss and its gradient by our names."""
    gpt, config = FAMILY.config.build(VOCAB_SIZE), LossConfig()
    params, base = (
        unflatten_dict(FAMILY.map_weights(each), sep="/") for each in (model, reference)
    )
    batch = _packed(desirable)
    values_BT = jax.jit(log_probabilities_of(gpt, config))(base, batch, None).values_BT
    reference_BS = np.asarray(sum_answers(values_BT, batch, 2 * len(EXAMPLES)))
    brought = {REFERENCE: bring(reference_BS, batch.segment_ids_BT)}
    batch = batch._replace(extras={**(batch.extras or {}), **brought})
    loss = objective.build_loss(gpt, jnp.ones(VOCAB_SIZE), config, 2 * len(EXAMPLES))

    def mean(params: Any) -> Any:
        sums = loss(params, batch, None)
        return sums.objective / sums.weight, sums.figures

    (value, figures), gradient = jax.jit(jax.value_and_grad(mean, has_aux=True))(params)
    # Where it is 0 it is not tested.
    assert figures.get("divergence", 1) > 0
    return float(value), flatten_dict(gradient, sep="/")


def _theirs(
    trainer: Any, model: Any, inputs: dict[str, Any]
) -> tuple[float, dict[str, np.ndarray]]:
    """Return the loss of TRL and its gradient by our names."""
    trainer.model.eval()  # As ours, which is given no key for dropout.
    loss = trainer._compute_loss(trainer.model, inputs, return_outputs=False)
    loss.backward()
    gradients = {name: weight.grad.numpy() for name, weight in model.named_parameters()}
    return float(loss.detach()), mapping.map_weights(FAMILY.table, gradients, FAMILY.shapes)


def _assert_same(ours: Any, theirs: Any) -> None:
    assert ours[0] == pytest.approx(theirs[0], rel=2e-5)
    for path, expected in theirs[1].items():
        # Rows that pad the vocabulary stand for no token, and have no gradient.
        expected = np.where(expected == mapping.VOCAB_PADDING, 0, expected)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours[1][path], expected, atol=2e-4 * scale, err_msg=path)


def _trainer(kind: str, folder: Path, model: Any, reference: Any, row: Any, **options: Any) -> Any:
    import datasets
    import tokenizers
    import transformers
    import trl

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="a", eos_token="b", unk_token="a"
    )
    config = getattr(trl, f"{kind}Config")(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", **options
    )
    return getattr(trl, f"{kind}Trainer")(
        model=model,
        ref_model=reference,
        args=config,
        train_dataset=datasets.Dataset.from_list([row] * 2),
        processing_class=tokenizer,
    )


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (Dpo(beta=0.3), {"loss_type": "sigmoid", "beta": 0.3}),
        (Dpo(beta=3.0, per_token=True), {"loss_type": "sigmoid_norm", "beta": 3.0}),
        (Ipo(beta=0.3), {"loss_type": "ipo", "beta": 0.3}),
    ],
    ids=["dpo", "dpo of means", "ipo"],
)
def test_pairs(objective: PreferenceObjective, options: Any, tmp_path: Path) -> None:
    model, reference = _published()
    ours = _ours(objective, model, reference, [0, 0, 0])
    row = {"prompt": "a", "chosen": "b", "rejected": "a"}
    trainer = _trainer("DPO", tmp_path, model, reference, row, **options)
    sequences = _sequences()
    theirs = _theirs(trainer, model, _padded(sequences[0::2] + sequences[1::2]))
    _assert_same(ours, theirs)


def test_single_answers(tmp_path: Path) -> None:
    model, reference = _published()
    objective = Kto(beta=0.2, desirable_weight=1.5, undesirable_weight=0.5)
    ours = _ours(objective, model, reference, [1, 0, 1])
    options = {"beta": 0.2, "desirable_weight": 1.5, "undesirable_weight": 0.5}
    row = {"prompt": "a", "completion": "b", "label": True}
    trainer = _trainer("KTO", tmp_path, model, reference, row, **options)
    sequences = _sequences()
    inputs = _padded(sequences[0::2]) | _padded(sequences[1::2], prefix="KL_")
    theirs = _theirs(trainer, model, inputs | {"label": torch.tensor([True, False, True])})
    _assert_same(ours, theirs)


def test_odds_ratios() -> None:
    orpo = pytest.importorskip("trl.experimental.orpo")
    policy = -np.random.default_rng(0).uniform(0.1, 300, (2, 8)).astype(np.float32)
    chosen, rejected = (Answers(policy[i], policy[i], np.full(8, 40.0)) for i in range(2))
    theirs, *_ = orpo.ORPOTrainer.odds_ratio_loss(
        SimpleNamespace(beta=0.2, accelerator=SimpleNamespace(device="cpu")),
        *(torch.from_numpy(np.array(each.per_token().policy)) for each in (chosen, rejected)),
    )
    # Theirs is the term of the odds alone, of the opposite sign.
    ours = Orpo(weight=0.2).losses(chosen, rejected) + chosen.per_token().policy
    np.testing.assert_allclose(-ours, theirs.numpy(), rtol=1e-4, atol=1e-6)
