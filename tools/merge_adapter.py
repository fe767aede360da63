"""`python tools/merge_adapter.py ...`: the same as `jaxgpt merge-adapter ...`."""

from jaxgpt.command_line import run_verb
from jaxgpt.tools.merge_adapter import main

if __name__ == "__main__":
    run_verb(main)
