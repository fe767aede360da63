"""`python tools/inspect_dataset.py ...`: the same as `jaxgpt inspect-dataset ...`."""

from jaxgpt.command_line import run_verb
from jaxgpt.tools.inspect_dataset import main

if __name__ == "__main__":
    run_verb(main)
