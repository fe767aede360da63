"""A run as a model of lm-evaluation-harness: `lm_eval --model jaxgpt --model_args checkpoint=RUN`.

Versions that look for plug-ins (after 0.4.13) find this class by the entry point in pyproject.toml.
Before them, import this module, which registers it. `jaxgpt.eval --harness` needs neither.
"""

from typing import Any

# The package registers its own models only while none is registered: ours must come second.
import lm_eval.models  # noqa: F401
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from jaxgpt.evaluation.harness import HarnessMethods
from jaxgpt.evaluation.loaded_model import LoadedModel
from jaxgpt.evaluation.scoring import Scorer
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import open_run
from jaxgpt.runtime.settings import configure_runtime


@register_model("jaxgpt")
class JaxgptModel(HarnessMethods, TemplateLM):
    """A checkpoint of a run on one device.

    Args:
        checkpoint: run folder or its URL.
        step: latest, best, or a step's number.
        batch_size: rows per batch.
        add_bos: whether contexts begin with the BOS token.
        max_length: longest context in tokens; None: as in training.
    """

    def __init__(
        self,
        checkpoint: str,
        step: str | int = "latest",
        batch_size: str | int = 32,
        add_bos: bool = True,
        max_length: int | None = None,
        **_: Any,
    ) -> None:
        run = open_run(checkpoint, str(step))
        configure_runtime(run.config.runtime)
        mesh = single_device_mesh()
        params = run.restore_params(run.choose_step(str(step)), mesh)
        length = max_length or run.config.batch.sequence_length
        loaded = LoadedModel(run.build_model(), params, run.tokenizer, mesh, length)
        super().__init__(Scorer(loaded, int(batch_size), add_bos))
