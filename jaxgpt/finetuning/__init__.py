"""Fine-tuning: examples from files, packed into rows, and the objectives that learn from them."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.finetuning.classification.multi_label import MultiLabel
    from jaxgpt.finetuning.classification.objective import Classification, SingleLabel
    from jaxgpt.finetuning.classification.pooling import LastToken, MeanOfTokens, Pooling
    from jaxgpt.finetuning.distillation import Distilled
    from jaxgpt.finetuning.examples import Examples, ExamplesConfig, read_examples
    from jaxgpt.finetuning.extraction import Extraction
    from jaxgpt.finetuning.forms.chats import Messages
    from jaxgpt.finetuning.forms.form import Form
    from jaxgpt.finetuning.forms.instructions import Instruction, PromptCompletion
    from jaxgpt.finetuning.forms.labelled import Labelled, LabelledForm, MultiLabelled
    from jaxgpt.finetuning.forms.plain import Text
    from jaxgpt.finetuning.forms.preferences import Preferences, UnpairedPreferences
    from jaxgpt.finetuning.forms.recognised import Recognised
    from jaxgpt.finetuning.forms.spans import Spans
    from jaxgpt.finetuning.forms.template import Template
    from jaxgpt.finetuning.labels import LabelObjective
    from jaxgpt.finetuning.objectives import ExampleObjective, Supervised, TokenObjective
    from jaxgpt.finetuning.preference.dpo import Dpo
    from jaxgpt.finetuning.preference.ipo import Ipo
    from jaxgpt.finetuning.preference.kto import Kto
    from jaxgpt.finetuning.preference.objective import PreferenceObjective
    from jaxgpt.finetuning.preference.orpo import Orpo
    from jaxgpt.finetuning.preference.pairs import PairObjective
    from jaxgpt.finetuning.reinforcement.dapo import Dapo
    from jaxgpt.finetuning.reinforcement.dr_grpo import DrGrpo
    from jaxgpt.finetuning.reinforcement.grpo import Grpo
    from jaxgpt.finetuning.reinforcement.gspo import Gspo
    from jaxgpt.finetuning.reinforcement.objective import CheckedAnswers
    from jaxgpt.finetuning.reinforcement.verifiers import ExactMatch, FinalNumber, Verifier
    from jaxgpt.finetuning.text import NewText
    from jaxgpt.finetuning.tokenized import TokenizedExamples
else:
    __getattr__, __dir__ = lazy_imports(__name__)
