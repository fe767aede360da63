"""Training state on disk: durable, sharded, restorable on any number of devices."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.checkpoints.config import CheckpointConfig
    from jaxgpt.checkpoints.lineage import check_resume, make_lineage
    from jaxgpt.checkpoints.manager import Checkpoints
    from jaxgpt.checkpoints.remote.download import fetch_run
    from jaxgpt.checkpoints.verification import verify_run
else:
    __getattr__, __dir__ = lazy_imports(__name__)
