"""`python tools/number_examples.py ...`: the same as `jaxgpt number-examples ...`."""

from jaxgpt.command_line import run_verb
from jaxgpt.tools.number_examples import main

if __name__ == "__main__":
    run_verb(main)
