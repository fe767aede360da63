"""`python tools/build_dataset.py ...`: the same as `jaxgpt build-dataset ...`."""

from jaxgpt.command_line import run_verb
from jaxgpt.tools.build_dataset import main

if __name__ == "__main__":
    run_verb(main)
