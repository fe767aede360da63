r"""Bits per byte of the types of GGUF files, computed by llama.cpp on held-out text.

    python -m tests.soak.gguf_bits_per_byte --checkpoint runs/quickstart \
        --data runs/quickstart/data --folder runs/types

Exports the model in each type, and lets llama.cpp predict each token of the first rows of the
validation split after those before it. Prints a line a type, with ours next to them.
"""

import argparse
import math
from pathlib import Path
from typing import get_args

import numpy as np

from jaxgpt.data.shards import TokenDataset
from jaxgpt.interchange.gguf.export_gguf import export_gguf
from jaxgpt.interchange.gguf.gguf_file import GgufDtype
from jaxgpt.interchange.gguf.llama_cpp import LlamaCpp
from jaxgpt.interchange.parity import our_logits
from jaxgpt.parallel.mesh import single_device_mesh
from jaxgpt.runs.run import open_run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--types", nargs="+", default=get_args(GgufDtype))
    options = parser.parse_args()
    run = open_run(options.checkpoint)
    step, length = run.choose_step("latest"), run.config.batch.sequence_length
    tokenizer = run.tokenizer
    rows_RT = _rows(options.data, options.rows, length)
    num_bytes = int(tokenizer.bytes_per_token[rows_RT[:, 1:]].sum())
    params = run.restore_params(step, single_device_mesh())
    logits_RTV = our_logits(run.config.model, params, tokenizer.vocab_size, rows_RT)
    logits_RTV = logits_RTV.astype(np.float64)
    logits_RTV -= np.logaddexp.reduce(logits_RTV, -1, keepdims=True)
    ours = -np.take_along_axis(logits_RTV[:, :-1], rows_RT[:, 1:, None], -1).sum()
    print(f"ours {ours / math.log(2) / num_bytes:.4f} bits per byte over {num_bytes:,} bytes")
    (letter,) = tokenizer.encode("e")
    for dtype in options.types:
        folder = options.folder / dtype
        export_gguf(run, step, folder, dtype, 10**12)
        server = LlamaCpp(folder / "model.gguf", length)
        total = 0.0
        for row_T in rows_RT.tolist():
            for place in range(1, len(row_T)):
                logprobs_V = server.logprobs(row_T[:place], tokenizer.vocab_size, letter)
                total -= logprobs_V[row_T[place]]
        print(f"{dtype} {total / math.log(2) / num_bytes:.4f}", flush=True)


def _rows(data: Path, count: int, length: int) -> np.ndarray:
    """Return the beginnings of the first documents that are long enough, int32 [R, T]."""
    split = TokenDataset.open(data).splits["val"]
    starts_D1 = np.append(split.document_starts(0, split.num_tokens), split.num_tokens)
    places = starts_D1[:-1][np.diff(starts_D1) >= length][:count]
    return np.array([split.read(place, place + length) for place in places], np.int32)


if __name__ == "__main__":
    main()
