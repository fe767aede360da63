"""The last part of the quickstart: the base model learns to answer "What does NAME do?"."""

import json
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxgpt.config import load_config, replace
from jaxgpt.finetuning.examples import read_examples
from jaxgpt.runs.quickstart.shown_commands import CLONE, run_shown
from jaxgpt.runs.run import open_run
from jaxgpt.runs.tuning.finetune_config import FinetuneConfig
from jaxgpt.tokenizer.chat_template import ChatTemplate
from jaxgpt.training.metrics import read_evaluations

_CONFIG = "configs/quickstart_answers.py"
_EXCLUDED = ("*/test/*", "*/tests/*", "*/idle_test/*", "*/site-packages/*", "*/config-*/*")
_NUM_QUESTIONS = 3
_ANSWER_TOKENS = 40


def answers_folder(base: Path) -> Path:
    """Return the run folder of the model that answers, next to that of its base."""
    return base.with_name(f"{base.name}-answers")


def teach_answers(base: Path, step: Sequence[str], num_steps: int | None) -> dict[str, Any]:
    """Make questions of docstrings, train on them, and show answers to held-out ones.

    Args:
        base: run folder of the base model.
        step: option that names its step, or nothing.
        num_steps: of the base's training, where that was asked for: the job then takes a quarter.

    Returns:
        For `quickstart.json`: the held-out target loss before and after.

    Raises:
        StepFailedError: a command failed; its error is above.
    """
    questions, run_dir = base / "questions.jsonl", answers_folder(base)
    stdlib = sysconfig.get_paths()["stdlib"]
    run_shown(
        "5. Questions and answers from docstrings",
        [
            "tools/docstring_examples.py", "--input", stdlib, "--output", str(questions),
            "--sources.exclude", *_EXCLUDED,
        ],
    )  # fmt: skip
    options = [] if num_steps is None else ["--schedule.num-steps", str(max(2, num_steps // 4))]
    run_shown(
        "6. Teach it to answer",
        [
            "-m", "jaxgpt.finetune", "--config", _CONFIG, "--checkpoint", str(base), *step,
            "--data", str(questions), "--run-dir", str(run_dir), *options,
        ],
    )  # fmt: skip
    asked = find_held_out_questions(base, questions)
    before = _ask("7. Ask it what it has not seen: before", base, step, asked)
    after = _ask("and after", run_dir, [], asked)
    for question, old, new in zip(asked, before, after, strict=True):
        print(f"\n--- {question}\nbefore: {' '.join(old.split())[:120]}\nafter:  {new}")
    losses = [float(each["loss"]) for each in read_evaluations(run_dir)]
    print(
        f"\nheld-out target loss: {losses[0]:.4f} before, {losses[-1]:.4f} after\n"
        f"ask it yourself: python -m jaxgpt.generate --checkpoint {run_dir} --prompt "
        f'"{asked[0]}"'
    )
    return {"answers": {"target_loss_before": losses[0], "target_loss": losses[-1]}}


def find_held_out_questions(base: Path, questions: Path) -> list[str]:
    """Return some of the questions that the fine-tuning run does not train on."""
    config, run = load_config(CLONE / _CONFIG, FinetuneConfig), open_run(base)
    length = run.config.batch.sequence_length + 1
    data = replace(config.data, files=(str(questions),), near_copy_similarity=None)
    examples = read_examples(data, run.tokenizer, length)
    template, held_out = ChatTemplate(run.tokenizer), examples.held_out
    places = [len(held_out) * number // _NUM_QUESTIONS for number in range(_NUM_QUESTIONS)]
    return [template.parse(held_out.sequence(place)[0])[0].content for place in places]


def _ask(title: str, run_dir: Path, step: Sequence[str], questions: Sequence[str]) -> list[str]:
    """Return the most probable answer of a run to each question."""
    written = run_shown(
        title,
        [
            "-m", "jaxgpt.generate", "--checkpoint", str(run_dir), *step, "--prompt", *questions,
            "--max-new-tokens", str(_ANSWER_TOKENS), "--temperature", "0", "--json",
        ],
    )  # fmt: skip
    return [sample["text"] for sample in json.loads(written)["samples"]]
