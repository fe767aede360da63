"""Needs of a run before it is started: bytes per device, seconds per step, days, cost."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.planning.compiled import CompiledPlan, compile_plan
    from jaxgpt.planning.devices import Device, find_device
    from jaxgpt.planning.memory import MemoryPlan
    from jaxgpt.planning.plan import Plan, describe, make_plan
    from jaxgpt.planning.speed import SpeedPlan
else:
    __getattr__, __dir__ = lazy_imports(__name__)
