"""`python tools/merge_shards.py ...`: the same as `jaxgpt merge-shards ...`."""

from jaxgpt.command_line import run_verb
from jaxgpt.tools.merge_shards import main

if __name__ == "__main__":
    run_verb(main)
