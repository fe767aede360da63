"""HumanEval (Chen et al. 2021, arXiv:2107.03374): functions to complete, and tests of them.

Programs of a model are run only on request: see `sandbox.py`. Without it, the completions are
written to the record of the items alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.config import configclass
from jaxgpt.evaluation.scoring import Request
from jaxgpt.evaluation.statistics import Metric
from jaxgpt.evaluation.tasks.task import Item, Measured, text_field
from jaxgpt.evaluation.text_tasks.sandbox import runs_without_error
from jaxgpt.evaluation.text_tasks.text_task import TextTask


@configclass
class HumanEval(TextTask):
    """Functions to complete; rows have `prompt`, `test` and `entry_point`."""

    stop: tuple[str, ...] = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    """Strings that end an answer."""
    run_code: bool = False
    """Run of the completions with their tests, in processes with limits and without a network."""
    seconds: int = 10
    """Most seconds of a completion with its tests."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {"pass_at_1": Metric("none")} if self.run_code else {}

    def read(self, row: Any) -> Item:
        prompt, test, name = (text_field(row, key) for key in ("prompt", "test", "entry_point"))
        if not name.isidentifier():
            raise ValueError(f"the field 'entry_point' is {name!r}, which is no name")
        check = f"{test}\ncheck({name})\n"
        solution = row.get("canonical_solution", "")
        return Item((Request(prompt, ""),), f"{prompt}{solution}", check)

    def measure(self, item: Item, scores: Sequence[Any]) -> dict[str, Measured]:
        if not self.run_code:
            return {}
        program = f"{item.requests[0].context}{scores[0].text}\n{item.gold}"
        return {"pass_at_1": Measured(float(runs_without_error(program, self.seconds)))}
