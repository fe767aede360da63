"""lm-evaluation-harness runs local tasks with a model of ours, by the verb and as a plug-in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt import eval as eval_verb
from jaxgpt.command_line import run_verb
from jaxgpt.errors import ConfigError, UsageError
from jaxgpt.evaluation import harness
from jaxgpt.evaluation.harness import import_harness, make_harness_model
from jaxgpt.evaluation.scoring import Scorer
from jaxgpt.evaluation.windows import encode_pair
from tests.evaluation.tiny_scoring import load_tiny
from tests.run_folder import make_run
from tests.tiny import make_dataset

ITEMS = [
    {"query": "the cat", "choices": ["sees a dog", "finds the old river"], "gold": 1},
    {"query": "one quick dog", "choices": ["keeps", "likes every green bird"], "gold": 0},
]


def test_without_the_package_the_command_that_installs_it_is_named(monkeypatch) -> None:
    def missing(name: str, purpose: str, advice: str) -> None:
        raise ConfigError(f"{purpose} needs {name}; {advice}")

    monkeypatch.setattr(harness, "import_package", missing)
    with pytest.raises(ConfigError, match=r"--harness needs .*pip install -e '\.\[harness\]'"):
        make_harness_model(Scorer(load_tiny(), silent=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and tasks over a local file."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    pytest.importorskip("lm_eval", reason="needs: pip install -e '.[harness]'")
    folder = tmp_path_factory.mktemp("harness")
    make_run(folder / "run", make_dataset(folder / "data", 60), {1: 2.0})
    file = folder / "items.jsonl"
    file.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    common = {
        "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test", "doc_to_text": "{{query}}",
    }  # fmt: skip
    choices = {
        "task": "mine", "output_type": "multiple_choice", "doc_to_choice": "choices",
        "doc_to_target": "{{gold}}", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    texts = {
        "task": "texts", "output_type": "generate_until", "doc_to_target": "{{query}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }  # fmt: skip
    sampled = texts | {"task": "sampled", "generation_kwargs": {"do_sample": True}}
    (folder / "tasks").mkdir()
    for task in (choices, texts, sampled):
        (folder / "tasks" / f"{task['task']}.yaml").write_text(json.dumps(common | task))
    return folder


@pytest.mark.slow
def test_the_verb_gives_the_figures_of_the_harness(folder: Path, capsys) -> None:
    run, tasks = ("--checkpoint", str(folder / "run"), "--json"), str(folder / "tasks")
    own = f"mine={folder / 'items.jsonl'}"
    argv = ("--harness", "mine,texts", "--harness-path", tasks, "--tasks", own)
    eval_verb.main([*run, *argv])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = result["harness"]
    assert found["bos"] is True
    assert found["results"]["mine"]["acc,none"] == result["tasks"]["mine"]["acc"]["value"]
    assert found["results"]["texts"]["exact_match,none"] == 0
    for names, code, message in (("mind", 2, "did you mean 'mine'"), ("sampled", 2, "samples")):
        with pytest.raises(SystemExit) as stop:
            run_verb(eval_verb.main, [*run, "--harness", names, "--harness-path", tasks])
        assert stop.value.code == code
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_a_model_of_the_harness_by_name(folder: Path) -> None:
    __import__("jaxgpt.runs.evaluation.harness_plugin")
    found = import_harness("lm_eval.evaluator").simple_evaluate(
        model="jaxgpt",
        model_args=f"checkpoint={folder / 'run'},max_length=12",
        tasks=["mine"],
        task_manager=import_harness("lm_eval.tasks").TaskManager(
            include_path=str(folder / "tasks"), include_defaults=False
        ),
        bootstrap_iters=10,
    )
    assert found["results"]["mine"]["acc,none"] in (0, 0.5, 1)


@pytest.mark.slow
def test_the_other_models_of_the_harness_stay_known() -> None:
    """The plug-in may be imported first; a fresh interpreter, because order is what matters."""
    pytest.importorskip("lm_eval", reason="needs: pip install -e '.[harness]'")
    code = (
        "import jaxgpt.runs.evaluation.harness_plugin\n"
        "from lm_eval.api.registry import get_model\n"
        "print(get_model('jaxgpt').__name__, get_model('dummy').__name__)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.split() == ["JaxgptModel", "DummyLM"], found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("add_bos", [True, False])
def test_pairs_are_encoded_as_the_harness_does(folder: Path, add_bos: bool) -> None:
    base = import_harness("lm_eval.api.model").TemplateLM
    tokenizer = load_tiny().tokenizer
    model = make_harness_model(Scorer(load_tiny(), add_bos=add_bos, silent=True))

    @settings(max_examples=100)
    @given(context=st.text(min_size=1, max_size=9), continuation=st.text(min_size=1, max_size=9))
    def check(context: str, continuation: str) -> None:
        theirs = base._encode_pair(model, context, continuation)
        # Where it has no context or nothing to score, the harness fails.
        if all(theirs):
            assert encode_pair(tokenizer, context, continuation, add_bos) == theirs

    check()


def test_sampled_texts_are_refused() -> None:
    for allowed in ({"do_sample": True, "temperature": 0.0}, {"until": "x"}, {}):
        assert harness._settings(allowed)[0] == 256
    with pytest.raises(UsageError, match="do_sample"):
        harness._settings({"do_sample": True})
