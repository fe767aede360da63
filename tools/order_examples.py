"""`python tools/order_examples.py ...`: the same as `jaxgpt order-examples ...`."""

from jaxgpt.command_line import run_verb
from jaxgpt.tools.order_examples import main

if __name__ == "__main__":
    run_verb(main)
