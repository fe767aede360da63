"""`python tools/import_tokens.py ...`: the same as `jaxgpt import-tokens ...`."""

from jaxgpt.command_line import run_verb
from jaxgpt.tools.import_tokens import main

if __name__ == "__main__":
    run_verb(main)
