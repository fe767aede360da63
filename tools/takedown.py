"""`python tools/takedown.py ...`: the same as `jaxgpt takedown ...`."""

from jaxgpt.command_line import run_verb
from jaxgpt.tools.takedown import main

if __name__ == "__main__":
    run_verb(main)
