"""Write golden/*.npz, which test_golden.py reads: `python -m tests.parity.make_golden`.

Each file holds a family's weights as our parameters (float16, exactly), tokens, and the logits of
transformers (float32): parity can then be checked where neither torch nor transformers is.
"""

from pathlib import Path

import numpy as np

from tests.parity.families import FAMILIES, published_logits, random_tokens

GOLDEN = Path(__file__).resolve().parent / "golden"
NAMES = ("gpt2", "llama3", "qwen3", "mistral", "gemma2")


def make(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of one family's file: "tokens", "logits" and "params/PATH"."""
    family = FAMILIES[name]
    published = family.build_published()
    tokens_BT = random_tokens(2, 12)
    arrays = {"tokens": tokens_BT, "logits": published_logits(published, tokens_BT)}
    for path, weight in family.map_weights(published).items():
        small = weight.astype(np.float16)
        assert (small == weight).all(), f"{path} is not exact in float16"
        arrays[f"params/{path}"] = small
    return arrays


def main() -> None:
    """Write all files."""
    GOLDEN.mkdir(exist_ok=True)
    for name in NAMES:
        np.savez_compressed(GOLDEN / f"{name}.npz", **make(name))


if __name__ == "__main__":
    main()
