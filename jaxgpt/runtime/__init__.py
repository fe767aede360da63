"""Settings of the process and the device that it compiles for."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.runtime.settings import RuntimeConfig, configure_runtime, describe_devices
    from jaxgpt.runtime.target import CompileTarget, compile_target, compiling_for
else:
    __getattr__, __dir__ = lazy_imports(__name__)
