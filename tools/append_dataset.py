"""`python tools/append_dataset.py ...`: the same as `jaxgpt append-dataset ...`."""

from jaxgpt.command_line import run_verb
from jaxgpt.tools.append_dataset import main

if __name__ == "__main__":
    run_verb(main)
