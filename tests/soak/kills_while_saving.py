"""Soak: after each of many kills at random moments of saving, the newest step is whole.

    python -m tests.soak.kills_while_saving [--num-kills N] [--seed N]

A longer form of tests/checkpoints/test_kill.py, which kills three times.
"""

import argparse
import tempfile
from pathlib import Path

from tests.checkpoints.test_kill import check_rounds


def main() -> None:
    """Kill again and again, and say how often."""
    parser = argparse.ArgumentParser(description="Kills at random moments of saving")
    parser.add_argument("--num-kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        check_rounds(Path(folder), options.num_kills, options.seed)
    print(f"{options.num_kills} kills: the newest step was whole each time")


if __name__ == "__main__":
    main()
