"""`python tools/train_tokenizer.py ...`: the same as `jaxgpt train-tokenizer ...`."""

from jaxgpt.command_line import run_verb
from jaxgpt.tools.train_tokenizer import main

if __name__ == "__main__":
    run_verb(main)
