"""COPA (Roemmele et al. 2011; in SuperGLUE): the cause or the effect of an event."""

from typing import Any

from jaxgpt.config import configclass
from jaxgpt.evaluation.tasks.multiple_choice import MultipleChoice
from jaxgpt.evaluation.tasks.task import Item, choice_index, field, text_field

_CONNECTORS = {"cause": "because", "effect": "therefore"}


@configclass
class Copa(MultipleChoice):
    """Cause or effect; rows have `query`, `choices`, `gold`, or the fields of the data set."""

    def read(self, row: Any) -> Item:
        if "premise" not in row:
            return super().read(row)
        kind = text_field(row, "question")
        if kind not in _CONNECTORS:
            raise ValueError(f"the field 'question' is {kind!r}; allowed: cause, effect")
        # The premise loses its full stop, and the choices their capital letter.
        query = f"{text_field(row, 'premise').strip()[:-1]} {_CONNECTORS[kind]}"
        choices = [text_field(row, name) for name in ("choice1", "choice2")]
        choices = [choice[:1].lower() + choice[1:] for choice in choices]
        return self.make_item(query, choices, choice_index(field(row, "label"), choices))
