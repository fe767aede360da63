"""`python -m jaxgpt VERB ...`: the same as `jaxgpt VERB ...`."""

from jaxgpt.cli import main

if __name__ == "__main__":
    main()
