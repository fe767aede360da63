"""Our tasks, and our adapter, against lm-evaluation-harness with the same weights."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from jaxgpt.evaluation.harness import import_harness, make_harness_model
from jaxgpt.evaluation.runner.run_task import run_task
from jaxgpt.evaluation.scoring import Scorer
from jaxgpt.evaluation.tasks.shots import Shots
from jaxgpt.evaluation.tasks.wikitext import WikiText
from jaxgpt.tokenizer.training import TokenizerConfig, train_tokenizer
from tests.parity.harness_peer import (
    CONTEXT_LENGTH,
    largest_difference,
    make_pair,
    to_transformers,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
# Both settings must stand before `datasets` is imported for the first time.
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
for _package, _extra in (("lm_eval", "harness"), ("torch", "parity"), ("transformers", "parity")):
    pytest.importorskip(_package, reason=f"needs: pip install -e '.[{_extra}]'")

NUM_ITEMS = 20
CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_choice": "choices",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "acc_bytes")],
}
ANSWER = CHOICES | {"doc_to_text": "{{query.rstrip()}}\nAnswer:"}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "hellaswag": ("hellaswag_val_1000", CHOICES | {"doc_to_text": "{{query}}"}),
    "arc_easy": ("arc_easy", ANSWER),
    "piqa": ("piqa", ANSWER),
    "boolq": ("boolq", ANSWER),
    "winogrande": ("winogrande", CHOICES | {
        "doc_to_text": "{{gold}}", "doc_to_choice": "context_options",
        "doc_to_target": "{{continuation}}", "metric_list": [{"metric": "acc"}],
    }),
    "lambada": ("lambada_openai", {
        "output_type": "loglikelihood", "doc_to_text": "{{context}}",
        "doc_to_target": " {{continuation}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    }),
}  # fmt: skip
PAGES = [" = Dogs = \n \n They bark @-@ loud , and more . \n" * 40, " = Cats = \n Not so . \n"]


@pytest.fixture(scope="module")
def folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some items of each file, and its description for lm-evaluation-harness."""
    folder = tmp_path_factory.mktemp("harness")
    for name, (file, settings) in TASKS.items():
        lines = (shared_data / "eval" / f"{file}.jsonl").read_text("utf-8").splitlines()
        (folder / f"{name}.jsonl").write_text("\n".join(lines[:NUM_ITEMS]) + "\n", "utf-8")
        _describe(folder, name, settings)
    (folder / "wikitext.jsonl").write_text(
        "".join(json.dumps({"page": page}) + "\n" for page in PAGES)
    )
    # The texts are written as a person would: what our task does before it scores them.
    written = [json.dumps({"page": page}) for page in _as_written(PAGES)]
    (folder / "written.jsonl").write_text("\n".join(written) + "\n")
    rolling = {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{page}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }  # fmt: skip
    _describe(folder, "written", rolling)
    return folder


def _describe(folder: Path, name: str, settings: dict[str, Any]) -> None:
    data = {"data_files": {"validation": str(folder / f"{name}.jsonl")}}
    split = {"validation_split": "validation", "fewshot_split": "validation"}
    task = {"task": name, "dataset_path": "json", "dataset_kwargs": data, **split, **settings}
    task["fewshot_config"] = {"sampler": "first_n"}
    (folder / f"{name}.yaml").write_text(json.dumps(task))


def _as_written(pages: list[str]) -> list[str]:
    seen: list[str] = []

    class Documents:
        def score_documents(self, texts: list[str]) -> list:
            seen.extend(texts)
            return texts

    task = WikiText()
    items = [task.read({"page": page}) for page in pages]
    task.score(Documents(), items, [""] * len(pages))  # type: ignore[arg-type]
    return seen


@pytest.fixture(scope="module")
def pair(shared_data: Path) -> tuple[Scorer, Any, Any]:
    """Our scorer, transformers' model and its tokenizer: the same function of the same text."""
    text = (shared_data / "eval" / "boolq.jsonl").read_text("utf-8")[:200_000]
    tokenizer = train_tokenizer(text.splitlines(), TokenizerConfig(vocab_size=700))
    loaded, published = make_pair(tokenizer)
    fast = to_transformers(tokenizer)
    for line in text.splitlines()[:20]:
        assert fast.encode(line) == [tokenizer.bos_id, *tokenizer.encode(line)]
    return Scorer(loaded, batch_size=4, silent=True), published, fast


def _evaluate(model: Any, folder: Path, names: list[str], num_shots: int = 0) -> Any:
    manager = import_harness("lm_eval.tasks").TaskManager(
        include_path=str(folder), include_defaults=False
    )
    return import_harness("lm_eval.evaluator").simple_evaluate(
        model=model, tasks=names, task_manager=manager, num_fewshot=num_shots, log_samples=True,
        bootstrap_iters=10,
    )  # fmt: skip


def _log_likelihoods(found: Any, name: str) -> list[float]:
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    return [float(answer[0][0]) for sample in samples for answer in sample["resps"]]


def test_log_likelihoods_and_accuracies_are_those_of_the_harness(
    folder: Path, pair: tuple[Scorer, Any, Any]
) -> None:
    scorer, published, fast = pair
    hf = import_harness("lm_eval.models.huggingface").HFLM(
        pretrained=published, tokenizer=fast, add_bos_token=True, max_length=CONTEXT_LENGTH,
        batch_size=8, device="cpu",
    )  # fmt: skip
    names = list(TASKS)
    theirs = _evaluate(hf, folder, names)
    adapter = _evaluate(make_harness_model(scorer), folder, names)
    num_cut = 0
    for name in names:
        ours = run_task(name, folder / f"{name}.jsonl", scorer, Shots())
        scores = [value for sample in ours.samples for value in sample["log_likelihoods"]]
        expected = _log_likelihoods(theirs, name)
        print(f"{name}: {largest_difference(scores, expected):.1e} of {len(expected)} requests")
        assert largest_difference(scores, expected) < 1e-4
        assert largest_difference(_log_likelihoods(adapter, name), expected) < 1e-4
        num_cut += ours.num_cut
        estimates = ours.estimates()
        for metric in estimates.keys() & {"acc", "acc_norm", "acc_bytes", "perplexity"}:
            if (figure := theirs["results"][name].get(f"{metric},none")) is None:
                continue
            assert estimates[metric]["value"] == pytest.approx(figure, rel=1e-5)
            assert adapter["results"][name][f"{metric},none"] == pytest.approx(figure, rel=1e-5)
            if metric != "perplexity":
                stderr = theirs["results"][name][f"{metric}_stderr,none"]
                assert estimates[metric]["stderr"] == pytest.approx(stderr)
    # The rule for what is too long is compared as well.
    assert num_cut > 0


@pytest.mark.parametrize("name", ["arc_easy", "winogrande"])
def test_examples_before_a_question_are_written_as_the_harness_does(
    folder: Path, pair: tuple[Scorer, Any, Any], name: str
) -> None:
    num_shots = 2
    theirs = _evaluate(make_harness_model(pair[0]), folder, [name], num_shots)["samples"][name]
    theirs.sort(key=lambda sample: sample["doc_id"])
    ours = run_task(name, folder / f"{name}.jsonl", pair[0], Shots(num_shots=num_shots)).samples
    # To the first questions it shows their own answers.
    for sample, expected in list(zip(ours, theirs, strict=True))[num_shots:]:
        asked = [tuple(arguments) for arguments in expected["arguments"]]
        assert [tuple(request) for request in sample["requests"]] == asked
        found = [float(answer[0][0]) for answer in expected["resps"]]
        assert largest_difference(sample["log_likelihoods"], found) < 1e-5


def test_documents_are_cut_into_the_windows_of_the_harness(
    folder: Path, pair: tuple[Scorer, Any, Any]
) -> None:
    scorer, published, fast = pair
    # With add_bos_token it would score BOS from BOS first.
    hf = import_harness("lm_eval.models.huggingface").HFLM(
        pretrained=published, tokenizer=fast, add_bos_token=False, max_length=CONTEXT_LENGTH,
        batch_size=2, device="cpu",
    )  # fmt: skip
    theirs = _evaluate(hf, folder, ["written"])
    samples = sorted(theirs["samples"]["written"], key=lambda sample: sample["doc_id"])
    expected = [float(sample["resps"][0][0]) for sample in samples]
    ours = run_task("wikitext", folder / "wikitext.jsonl", scorer, Shots())
    scores = [sample["log_likelihoods"][0] for sample in ours.samples]
    assert ours.samples[0]["num_tokens"][0] > 2 * CONTEXT_LENGTH
    assert largest_difference(scores, expected) < 1e-3
    adapter = _evaluate(make_harness_model(scorer), folder, ["written"])
    figure = theirs["results"]["written"]["bits_per_byte,none"]
    assert adapter["results"]["written"]["bits_per_byte,none"] == pytest.approx(figure, rel=1e-5)


def test_the_detokenised_text_is_that_of_the_harness(folder: Path) -> None:
    module = import_harness("lm_eval.tasks.wikitext.preprocess_wikitext")
    pages = [
        *PAGES,
        " = = = A [ b ] \" c \" ' d ' 5 \N{DEGREE SIGN} N s ' 's { e } ! ? ; : = = \n x",
    ]
    assert _as_written(pages) == [module.wikitext_detokenizer({"page": page}) for page in pages]
