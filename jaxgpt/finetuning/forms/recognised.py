"""The form of a file, recognised by the fields of its first rows."""

from collections import Counter
from collections.abc import Sequence

from jaxgpt.config import configclass
from jaxgpt.corpus.readers.rows import Row
from jaxgpt.errors import BadInputError
from jaxgpt.finetuning.forms.chats import Messages
from jaxgpt.finetuning.forms.form import Form, name_fields
from jaxgpt.finetuning.forms.instructions import Instruction, PromptCompletion
from jaxgpt.finetuning.forms.labelled import Labelled, MultiLabelled
from jaxgpt.finetuning.forms.plain import Text
from jaxgpt.finetuning.forms.preferences import Preferences, UnpairedPreferences
from jaxgpt.finetuning.forms.spans import Spans

# The fields of TRL, litgpt, Alpaca, Dolly, ShareGPT and GSM8K.
KNOWN: tuple[Form, ...] = (
    Messages(),
    Messages(messages="conversations"),
    PromptCompletion(),
    PromptCompletion(completion="response"),
    PromptCompletion(prompt="question", completion="answer"),
    Instruction(),
    Instruction(output="response"),
    Instruction(input="context", output="response"),
    Preferences(),
    UnpairedPreferences(),
    Labelled(),
    MultiLabelled(),
    Spans(),
    Spans(label="entities"),
    Text(),
)
NUM_FIRST_ROWS = 20


@configclass
class Recognised(Form):
    """The known form whose fields the first rows of a file have."""

    def choose(self, name: str, rows: Sequence[Row]) -> Form:
        """Return the form of a file.

        Raises:
            BadInputError: no known form has these fields, or several have.
        """
        first = rows[:NUM_FIRST_ROWS]
        counts = Counter(
            field for row in first for field, value in row.values.items() if value is not None
        )
        fields = {field: None for field, count in counts.items() if 2 * count > len(first)}
        read = {form: _fields_read(form, fields) for form in KNOWN}
        fitting = {form: used for form, used in read.items() if used}
        best = [
            form
            for form, used in fitting.items()
            if not any(used < other for other in fitting.values())
        ]
        # Several forms of one class, which read the same fields, are one.
        best = [form for place, form in enumerate(best) if fitting[form] not in
                [fitting[other] for other in best[:place]]]  # fmt: skip
        if len(best) == 1:
            return best[0]
        seen = f"{name} has the fields {name_fields(fields) or '(none)'}"
        if best:
            choices = ", ".join(form.describe() for form in best)
            raise BadInputError(f"{seen}, which fit several forms: {choices}; set `form` to one")
        known = ", ".join(form.describe() for form in KNOWN)
        raise BadInputError(
            f"{seen}, which fit no known form: {known}; rename fields, or set `form` to one with "
            "the names of these fields, or to a Template"
        )


def _fields_read(form: Form, fields: dict[str, None]) -> frozenset[str]:
    """Return the fields that a form reads; none if one that it requires is missing."""
    if not fields.keys() >= set(form.required):
        return frozenset()
    return frozenset(fields.keys() & {*form.required, *form.optional})
