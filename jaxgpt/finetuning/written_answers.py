"""Answers that a model writes to held-out prompts, compared with those of the examples."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.errors import UsageError
from jaxgpt.evaluation.generation import Continuation, continue_greedily
from jaxgpt.evaluation.runner.results import TaskResult
from jaxgpt.evaluation.text_metrics import ROUGE, rouge_scores, translation_scores
from jaxgpt.finetuning.example_scores import ExampleScoring
from jaxgpt.finetuning.tokenized import TokenizedExamples
from jaxgpt.inference.text_generation import HealedPrompt
from jaxgpt.tokenizer.tokenizer import Tokenizer


class Question(NamedTuple):
    """A conversation up to its last answer, and that answer.

    Attributes:
        ids: ids up to that of the assistant, after which the model writes.
        text: the conversation, for people.
        answer: the answer of the example.
    """

    ids: list[int]
    text: str
    answer: str


def read_questions(examples: TokenizedExamples, tokenizer: Tokenizer) -> list[Question]:
    """Return the examples that end with an answer; plain texts have none."""
    assistant = tokenizer.special_ids["assistant"]
    control = np.array(sorted(tokenizer.special_ids.values()))
    found = []
    for index in range(len(examples)):
        ids_L, weights_L = examples.sequence(index)
        # The last run of targets is the last answer.
        start = int(np.flatnonzero(weights_L == 0)[-1]) + 1
        if ids_L[start - 1] != assistant:
            continue
        prompt, answer = ids_L[:start].tolist(), ids_L[start:]
        answer = tokenizer.decode(answer[~np.isin(answer, control)].tolist())
        found.append(Question(prompt, _readable(prompt, tokenizer), answer))
    return found


def write_answers(scoring: ExampleScoring) -> TaskResult:
    """Return how the model's own answers, each token the most probable one, compare.

    `ended` is the share of the answers that the model ends by itself, and `exact_match` that of
    the answers whose text is the example's.

    Raises:
        UsageError: no example has an answer.
        ConfigError: a package of a score is missing.
    """
    loaded, options = scoring.loaded, scoring.options
    questions = read_questions(scoring.rows.examples, loaded.tokenizer)
    if not questions:
        raise UsageError("--examples: no held-out example ends with an answer to compare with")
    prompts = [HealedPrompt(question.ids, b"", 0) for question in questions]
    written = continue_greedily(
        loaded, prompts, options.answer_tokens, (), scoring.batch_size, scoring.silent
    )
    texts, golds = [each.text.strip() for each in written], [q.answer.strip() for q in questions]
    values = {
        "ended": [float(each.has_ended) for each in written],
        "exact_match": [float(ours == gold) for ours, gold in zip(texts, golds, strict=True)],
    }
    if "rouge" in options.example_scores:
        scores = [rouge_scores(ours, gold) for ours, gold in zip(texts, golds, strict=True)]
        values |= {name: [score[name] for score in scores] for name in ROUGE}
    figures = {}
    if "chrf" in options.example_scores:
        figures["chrf"] = translation_scores(texts, golds)["chrf"]
    return scoring.result(
        "answers",
        f"greedy answers of at most {options.answer_tokens} tokens",
        {name: np.array(each) for name, each in values.items()},
        _samples(questions, written, values),
        figures=figures,
    )


def _samples(
    questions: Sequence[Question],
    written: Sequence[Continuation],
    values: dict[str, list[float]],
) -> list[dict[str, Any]]:
    return [
        {
            "prompt": question.text,
            "text": answer.text,
            "gold": question.answer,
            "metrics": {name: each[place] for name, each in values.items()},
        }
        for place, (question, answer) in enumerate(zip(questions, written, strict=True))
    ]


def _readable(ids: list[int], tokenizer: Tokenizer) -> str:
    """Return the text of a prompt, each message after the name of its role."""
    names = {id: name for name, id in tokenizer.special_ids.items()}
    pieces, content = [], []
    for id in [*ids[1:], tokenizer.special_ids["end"]]:
        if id not in names:
            content.append(id)
            continue
        pieces.append(tokenizer.decode(content))
        content = []
        pieces.append("\n" if names[id] == "end" else f"{names[id]}: ")
    return "".join(pieces).strip()
