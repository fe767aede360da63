"""A run folder as one page to read: what is in it, its curves, and the page (run_report.py)."""

from typing import TYPE_CHECKING

from jaxgpt.public_names import lazy_imports

if TYPE_CHECKING:
    from jaxgpt.reporting.run_folder import RunFolder, read_run_folder
    from jaxgpt.reporting.run_report import write_run_report
else:
    __getattr__, __dir__ = lazy_imports(__name__)
