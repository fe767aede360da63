"""Several hosts: find each other, compare, stop together."""

from typing import TYPE_CHECKING

from jaxgpt.names.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.distributed.hosts import HostsConfig, joined_hosts
else:
    __getattr__, __dir__ = lazy_imports(__name__)
