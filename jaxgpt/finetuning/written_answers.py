"""Answers that a model writes to held-out prompts, compared with those of the examples."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.errors import UsageError
from jaxgpt.evaluation.generation import Continuation, continue_greedily
from jaxgpt.evaluation.runner.results import TaskResult
from jaxgpt.evaluation.text_metrics import ROUGE, rouge_scores, translation_scores
from jaxgpt.finetuning.example_scores import ExampleScoring
from jaxgpt.finetuning.tokenized import TokenizedExamples, answer_place
from jaxgpt.inference.text_generation import HealedPrompt
from jaxgpt.tokenizer.readable import conversation_text, text_without_controls
from jaxgpt.tokenizer.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


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


class Questions(NamedTuple):
    """The examples that can be asked, and the numbers of the others.

    Attributes:
        asked: those with a whole answer.
        num_cut: examples whose last answer lost its end at the context.
        num_without: examples without an answer, such as plain texts.
    """

    asked: list[Question]
    num_cut: int
    num_without: int


def read_questions(examples: TokenizedExamples, tokenizer: Tokenizer) -> Questions:
    """Return the questions before the last answer of each example that is a target."""
    asked, num_cut, num_without = [], 0, 0
    for index in range(len(examples)):
        ids_L, weights_L = examples.sequence(index)
        start, stop = answer_place(weights_L)
        if start == stop or ids_L[start - 1] != tokenizer.special_ids["assistant"]:
            num_without += 1
        elif ids_L[stop - 1] != tokenizer.special_ids["end"]:
            num_cut += 1
        else:
            prompt = ids_L[:start].tolist()
            answer = text_without_controls(ids_L[start:stop], tokenizer)
            asked.append(Question(prompt, conversation_text(prompt, tokenizer), answer))
    return Questions(asked, num_cut, num_without)


def write_answers(scoring: ExampleScoring) -> TaskResult:
    """Return how the model's own answers, each token the most probable one, compare.

    Examples whose answer is cut, or that have none, are left out and counted.

    `ended` is the share of the answers that the model ends by itself, and `exact_match` that of
    the answers whose text is the example's.

    Raises:
        UsageError: no example has a whole answer.
        ConfigError: a package of a score is missing.
    """
    loaded, options = scoring.loaded, scoring.options
    questions, num_cut, num_without = read_questions(scoring.rows.examples, loaded.tokenizer)
    if not questions:
        raise UsageError(
            "--examples: no held-out example has a whole answer to compare with "
            f"({num_cut} are cut at the context, {num_without} have none)"
        )
    if num_cut or num_without:
        logger.warning(
            "%d examples are left out: the answers of %d are cut at the context of %d tokens, and "
            "%d have no answer",
            num_cut + num_without, num_cut, scoring.rows.sequence_length, num_without,
        )  # fmt: skip
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
        left_out={"answer_cut": num_cut, "no_answer": num_without},
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
