"""What drafts of n-gram lookup save: processor time, and how many of them are right.

    python -m tests.soak.draft_rate --checkpoint RUN --texts FILES... [--most 4 8] [--rounds 3]

Prompts are the last tokens of 40 lines out of the files, one a file. Engines without and with
drafts answer them by turns, a few requests at a time; what they did before the first turn does not
count. Prints an object of JSON for each temperature and engine: drafts of one turn, the processor
time of each turn, that without drafts divided by it, and whether all tokens were those without
drafts.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxgpt.inference import NgramLookup
from jaxgpt.inference.engine import Engine, EngineConfig, Progress, Request, RequestSampling
from jaxgpt.inference.precision import WHILE_WRITING
from jaxgpt.runs.decoding import open_decoder
from jaxgpt.runs.run import Run

LINES = 40
LEAST_LINES = 120


def make_prompts(run: Run, paths: Sequence[Path], number: int, length: int) -> list[list[int]]:
    """Return the ids of `number` prompts of up to `length` tokens and one that begins them."""
    rng, prompts = np.random.default_rng(0), []
    for path in paths:
        lines = path.read_text().splitlines(keepends=True)
        if len(lines) >= LEAST_LINES and len(prompts) < number:
            end = int(rng.integers(60, len(lines) - 30))
            ids = run.tokenizer.encode("".join(lines[end - LINES : end]))
            prompts.append([run.tokenizer.bos_id, *ids[-length:]])
    return prompts


def answer(
    engine: Engine, prompts: Sequence[Sequence[int]], num_new: int, at_once: int, temperature: float
) -> tuple[list[list[int]], float]:
    """Return the ids of all answers, and the processor time that they took."""
    found: list[list[int]] = [[] for _ in prompts]
    waiting, running = list(range(len(prompts))), set()
    start = time.process_time()
    while waiting or running:
        while waiting and len(running) < at_once:
            row = waiting.pop(0)
            running.add(row)

            def deliver(progress: Progress, row: int = row) -> None:
                found[row] += [token.id for token in progress.tokens]
                if progress.finish is not None:
                    running.discard(row)

            sampling = RequestSampling(temperature=temperature)
            how = {"max_new_tokens": num_new, "sampling": sampling, "seed": row}
            engine.submit(Request(prompt=tuple(prompts[row]), ignore_stop=True, **how), deliver)
        engine.step()
    return found, time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--num-prompts", type=int, default=12)
    parser.add_argument("--prompt-tokens", type=int, default=150)
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--most", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    run, _, decoder = open_decoder(options.checkpoint, "latest", WHILE_WRITING)
    prompts = make_prompts(run, options.texts, options.num_prompts, options.prompt_tokens)
    size = EngineConfig(num_slots=options.slots)
    drafts = [None, *(NgramLookup(most=most) for most in options.most)]
    engines = [Engine(decoder, size, speculation=each) for each in drafts]
    for temperature in options.temperatures:
        how = options.new_tokens, options.at_once, temperature
        for engine in engines:
            answer(engine, prompts, *how)
        before = [engine.counts() for engine in engines]
        turns = [
            [answer(engine, prompts, *how) for engine in engines] for _ in range(options.rounds)
        ]
        for place, engine in enumerate(engines):
            counts = engine.counts()
            drafted = counts.drafted_tokens - before[place].drafted_tokens
            accepted = counts.accepted_tokens - before[place].accepted_tokens
            shown = {
                "temperature": temperature,
                "most": engine.most_drafts,
                "drafted": drafted / options.rounds,
                "right": accepted / options.rounds,
                "seconds": [round(turn[place][1], 3) for turn in turns],
                "saved": [round(turn[0][1] / turn[place][1], 2) for turn in turns],
                "same": all(turn[place][0] == turn[0][0] for turn in turns),
            }
            print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
