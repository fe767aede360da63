"""`python tools/export_dataset.py ...`: the same as `jaxgpt export-dataset ...`."""

from jaxgpt.command_line import run_verb
from jaxgpt.tools.export_dataset import main

if __name__ == "__main__":
    run_verb(main)
