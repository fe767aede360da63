"""`python tools/docstring_examples.py ...`: the same as `jaxgpt docstring-examples ...`."""

from jaxgpt.command_line import run_verb
from jaxgpt.tools.docstring_examples import main

if __name__ == "__main__":
    run_verb(main)
