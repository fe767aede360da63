"""Stock lm-evaluation-harness scores a served model over HTTP as our adapter scores it here."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from jaxgpt.evaluation.harness import import_harness, make_harness_model
from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.evaluation.scoring import Scorer
from jaxgpt.inference.sampling import SamplingConfig
from jaxgpt.interchange.tokenizer_files import write_tokenizer
from jaxgpt.parallel.mesh import single_device_mesh
from tests.serving.served import CONFIG, CONTEXT, Served, make_params
from tests.tiny import make_texts

pytestmark = pytest.mark.slow
# Both settings must stand before `datasets` is imported for the first time.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
for _package, _advice in (
    ("lm_eval", "'.[harness]'"), ("transformers", "'.[parity]'"), ("tokenizers", "'.[export]'"),
    ("tenacity", "'.[parity]'"),
):  # fmt: skip
    pytest.importorskip(_package, reason=f"needs: pip install -e {_advice}")

TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice", "doc_to_text": "{{query}}", "doc_to_choice": "choices",
        "doc_to_target": "{{gold}}", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "last_words": {
        "output_type": "loglikelihood", "doc_to_text": "{{query}}", "doc_to_target": "{{last}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "answers": {
        "output_type": "generate_until", "doc_to_text": "{{query}}", "doc_to_target": "{{last}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}  # fmt: skip
SCORED = ["choices", "last_words"]
# The item that is too long: a text that is cut begins with the start symbol again, ids do not.
TOO_LONG = 7


@pytest.fixture(scope="module")
def folder(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks over a local file, and the served model's tokenizer as an export has it."""
    folder = tmp_path_factory.mktemp("harness")
    rng = random.Random(0)
    texts = make_texts(40)
    items = []
    for number, text in enumerate(texts[:20]):
        # Unlike lengths, spaces at the end, bytes that are no word, and what is longer than fits.
        query = text[: rng.randint(5, 60)] + " " * (number % 2) + ("é🐱" if number % 5 == 0 else "")
        query = (query + " the small cat") * (30 if number == TOO_LONG else 1)
        choices = [" " + rng.choice(texts)[: rng.randint(2, 30)] for _ in range(3)]
        last = _greedy(served, query) if number % 3 else choices[0]
        items.append({"query": query, "choices": choices, "gold": number % 3, "last": last})
    file = folder / "items.jsonl"
    file.write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}}
    for name, task in TASKS.items():
        described = {"task": name, "test_split": "test", **data, **task}
        (folder / f"{name}.yaml").write_text(json.dumps(described))
    (folder / "tokenizer").mkdir()
    write_tokenizer(served.tokenizer, folder / "tokenizer", CONTEXT)
    return folder


def _greedy(served: Served, text: str) -> str:
    """Return what the model would write first."""
    ids = [served.tokenizer.bos_id, *served.tokenizer.encode(text)][-CONTEXT + 8 :]
    found: list[int] = []
    for (new,) in served.decoder.generate([ids], 2, SamplingConfig(temperature=0.0)):
        found += new.ids
    return served.tokenizer.decode(found) or "."


def _evaluate(folder: Path, names: list[str], **model: Any) -> Any:
    manager = import_harness("lm_eval.tasks").TaskManager(
        include_path=str(folder), include_defaults=False
    )
    return import_harness("lm_eval.evaluator").simple_evaluate(
        tasks=names, task_manager=manager, log_samples=True, bootstrap_iters=10, **model
    )


def _answers(found: Any, name: str, but: int | None) -> list[Any]:
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    return [each[0] for sample in samples if sample["doc_id"] != but for each in sample["resps"]]


@pytest.fixture(scope="module")
def expected(served: Served, folder: Path) -> Any:
    """What `python -m jaxgpt.eval --harness` finds, with one token less of context.

    It scores the last token without reading it, which a server does not.
    """
    vocab_size = served.tokenizer.vocab_size
    loaded = LoadedModel(
        CONFIG.build(vocab_size), make_params(vocab_size), served.tokenizer, single_device_mesh(),
        CONTEXT - 1,
    )  # fmt: skip
    return _evaluate(folder, SCORED, model=make_harness_model(Scorer(loaded, silent=True)))


@pytest.mark.parametrize(
    ("as_ids", "options"),
    [
        (True, {"batch_size": 4}),
        (True, {"batch_size": 1, "num_concurrent": 4}),
        (False, {"batch_size": 4}),
        (False, {"batch_size": 1}),
    ],
)
def test_a_served_model_gets_the_figures_of_our_adapter(
    served: Served, folder: Path, expected: Any, as_ids: bool, options: dict[str, Any]
) -> None:
    found = _evaluate(
        folder,
        SCORED,
        model="local-completions",
        model_args={
            "model": "tiny", "base_url": f"{served.url}/v1/completions",
            "tokenizer": str(folder / "tokenizer"), "tokenizer_backend": "huggingface",
            # The server begins a text with the start symbol, ids are taken as they are.
            "add_bos_token": as_ids, "tokenized_requests": as_ids,
            "max_length": CONTEXT + 1 if as_ids else CONTEXT, **options,
        },
    )  # fmt: skip
    but = None if as_ids else TOO_LONG
    for name in SCORED:
        pairs = zip(_answers(found, name, but), _answers(expected, name, but), strict=True)
        for (score, is_greedy), (expected_score, is_expected_greedy) in pairs:
            assert float(score) == pytest.approx(float(expected_score), abs=1e-4)
            assert is_greedy == is_expected_greedy
        for metric in ("acc,none", "acc_norm,none"):
            assert found["results"][name].get(metric) == expected["results"][name].get(metric)
    # Neither always nor never.
    assert 0 < expected["results"]["last_words"]["acc,none"] < 1


def test_answers_of_a_chat_are_those_of_the_template(served: Served, folder: Path) -> None:
    found = _evaluate(
        folder,
        ["answers"],
        model="local-chat-completions",
        model_args={"model": "tiny", "base_url": f"{served.url}/v1/chat/completions"},
        apply_chat_template=True,
        limit=5,
    )
    for sample in found["samples"]["answers"]:
        messages = [{"role": "user", "content": sample["doc"]["query"]}]
        answer = served.client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=6, temperature=0, stop=["\n\n"]
        )
        assert sample["resps"][0][0] == answer.choices[0].message.content
