"""`python tools/benchmark.py ...`: the same as `jaxgpt benchmark ...`."""

from jaxgpt.command_line import run_verb
from jaxgpt.tools.benchmark import main

if __name__ == "__main__":
    run_verb(main)
