"""`python tools/import_huggingface.py ...`: the same as `jaxgpt import-huggingface ...`."""

from jaxgpt.command_line import run_verb
from jaxgpt.tools.import_huggingface import main

if __name__ == "__main__":
    run_verb(main)
