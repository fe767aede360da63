"""lm-evaluation-harness 0.4 with a model of ours: its tasks, its prompts, its metrics.

The package (extra `harness`) is imported only when its tasks are asked for.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from jaxgpt.config import configclass
from jaxgpt.errors import UsageError, did_you_mean
from jaxgpt.evaluation.generation import continue_greedily
from jaxgpt.evaluation.scoring import Scorer
from jaxgpt.evaluation.windows import encode_pair
from jaxgpt.names.packages import import_package, install_advice

_MAX_NEW_TOKENS = 256
# Draws for the standard error of perplexity, BLEU and the like.
_BOOTSTRAP_DRAWS = 1000
# Nothing is fetched; draws in forked processes could hang, because JAX runs threads.
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "DISABLE_MULTIPROC": "1"}


@configclass
class HarnessOptions:
    """Tasks of lm-evaluation-harness."""

    harness: str | None = None
    """Tasks of lm-evaluation-harness, by name, separated by commas; needs the extra `harness`."""
    harness_path: str | None = None
    """Folder with the task files (YAML) of the names; None: those that the package carries, whose
    data must be in the cache of Hugging Face."""

    def __post_init__(self) -> None:
        if self.harness_path and not self.harness:
            raise ValueError("--harness-path needs the names of tasks; give them with --harness")


class HarnessMethods:
    """Methods of `lm_eval.api.model.TemplateLM` that a model of ours answers with.

    Not a subclass: the package may be absent. `make_harness_model` joins both.
    """

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self._scorer = scorer
        self._tokenizer = scorer.loaded.tokenizer

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """Return the BOS token, which a first token is scored from."""
        return self._tokenizer.bos_id

    @property
    def tokenizer_name(self) -> str:
        return self._tokenizer.fingerprint

    @property
    def max_length(self) -> int:
        return self._scorer.loaded.context_length

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return the ids of a text, after BOS where the scorer or the caller wants it."""
        add_bos = self._scorer.add_bos if add_special_tokens is None else add_special_tokens
        return [self._tokenizer.bos_id] * add_bos + self._tokenizer.encode(string)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return encode_pair(self._tokenizer, context, continuation, self._scorer.add_bos)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        scores = self._scorer.score_tokens([(context, ids) for _, context, ids in requests])
        return [(score.log_likelihood, score.is_greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """Return the log-likelihood of each text as a whole."""
        scores = self._scorer.score_documents([request.args[0] for request in requests])
        return [score.log_likelihood for score in scores]

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Return the greedy continuation of each context.

        Raises:
            UsageError: a task asks for sampling.
        """
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[_settings(request.args[1])].append(index)
        texts = [""] * len(requests)
        for (max_new_tokens, stop), indices in groups.items():
            prompts = [requests[index].args[0] for index in indices]
            found = continue_greedily(self._scorer.loaded, prompts, max_new_tokens, stop)
            for index, each in zip(indices, found, strict=True):
                texts[index] = each.text
        return texts


def _settings(options: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
    """Return the most new tokens and the stop strings that a task asks for."""
    if options.get("do_sample") and options.get("temperature", 1.0) > 0:
        raise UsageError(
            "the task samples its texts; only greedy texts are written here: set do_sample to "
            "false in its YAML"
        )
    until = options.get("until") or []
    stop = tuple([until] if isinstance(until, str) else until)
    return int(options.get("max_gen_toks", _MAX_NEW_TOKENS)), stop


def import_harness(name: str) -> Any:
    """Import a module of lm-evaluation-harness, which then fetches nothing.

    Raises:
        ConfigError: the package is missing; the message has the command that installs it.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    return import_package(name, "--harness", install_advice("harness"))


def make_harness_model(scorer: Scorer) -> Any:
    """Return an `lm_eval.api.model.TemplateLM` that scores with a model of ours."""
    base = import_harness("lm_eval.api.model").TemplateLM
    return type("JaxgptModel", (HarnessMethods, base), {})(scorer)


def run_harness(
    options: HarnessOptions, scorer: Scorer, num_shots: int, limit: int | None
) -> dict[str, Any]:
    """Return the results of lm-evaluation-harness for a model.

    Args:
        options: names of tasks, and where they are described.
        scorer: scores text with the model.
        num_shots: examples before each question; 0 leaves the number to the task.
        limit: most items of each task.

    Raises:
        ConfigError: the package is missing.
        UsageError: a task is unknown, or its data is not on this machine.
    """
    tasks = import_harness("lm_eval.tasks")
    manager = tasks.TaskManager(
        include_path=options.harness_path, include_defaults=options.harness_path is None
    )
    names = [name.strip() for name in (options.harness or "").split(",")]
    for name in names:
        if name not in manager.all_tasks:
            raise UsageError(
                f"no task {name!r} in {options.harness_path or 'lm-evaluation-harness'}"
                f"{did_you_mean(name, manager.all_tasks)}; it has "
                f"{len(manager.all_tasks)} tasks: {', '.join(manager.all_tasks[:10])}"
            )
    try:
        found = import_harness("lm_eval.evaluator").simple_evaluate(
            model=make_harness_model(scorer),
            tasks=names,
            task_manager=manager,
            num_fewshot=num_shots or None,
            limit=limit,
            bootstrap_iters=_BOOTSTRAP_DRAWS,
            log_samples=False,
        )
    except (ConnectionError, FileNotFoundError) as error:
        raise UsageError(
            f"the data of a task is not on this machine ({error}); describe local files in a YAML "
            "with `dataset_path: json` and name its folder with --harness-path"
        ) from None
    return {
        "results": found["results"],
        "versions": found["versions"],
        "num_shots": found["n-shot"],
        "bos": scorer.add_bos,
        "lm_eval": import_harness("lm_eval").__version__,
    }
