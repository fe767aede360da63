"""Continue rows beyond the context of a model: forget the oldest tokens and read the rest again.

Tokens in, tokens out, as in decode.py. When a window is full, the newer half of its tokens, after
the first one, begins the next window. So each token is drawn with at least half a window before it.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxgpt.inference.decode import Constraint, Decoder, NewTokens
from jaxgpt.inference.sampling import SamplingConfig


class SlidingDecoder:
    """A decoder whose rows may be longer than the context of its model.

    Args:
        decoder: decodes one window.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int],
        sampling: SamplingConfig,
        seed: int = 0,
        constraint: Constraint | None = None,
        breakers: Sequence[int] = (),
    ) -> Iterator[list[NewTokens]]:
        """Yield what the rows gain; arguments and errors as for `Decoder.generate`."""
        tokens = [list(prompt) for prompt in prompts]
        limits = np.broadcast_to(max_new_tokens, len(prompts)).tolist()
        ends = [len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)]
        rows = list(range(len(prompts)))
        window = 0
        while rows:
            starts = [self._window(tokens[row]) for row in rows]
            rooms = [
                min(ends[row] - len(tokens[row]), self.decoder.context_length - len(start) + 1)
                for row, start in zip(rows, starts, strict=True)
            ]
            drawn = [tokens[row][len(prompts[row]) :] for row in rows]
            finished = set()
            here = _seed(seed, window), rows, _go_on(constraint, rows, drawn)
            for news in self.decoder.generate(starts, rooms, sampling, *here, breakers):
                moved = []
                for new in news:
                    row = rows[new.row]
                    tokens[row] += new.ids
                    if new.finish == "stop" or len(tokens[row]) == ends[row]:
                        finished.add(row)
                    finish = new.finish if row in finished else None
                    moved.append(NewTokens(row, new.ids, finish))
                yield moved
            rows = [row for row in rows if row not in finished]
            window += 1

    def _window(self, tokens: list[int]) -> list[int]:
        """Return what the next window begins with: all tokens if they leave room, else the end."""
        length = self.decoder.context_length
        if len(tokens) < length:
            return tokens
        kept = length // 2
        return tokens[:1] + tokens[len(tokens) - kept + 1 :] if kept > 1 else tokens[-1:]


def _seed(seed: int, window: int) -> int:
    """Return the seed of a window: places are counted from its start, so draws must differ."""
    if window == 0:
        return seed
    return int(np.random.SeedSequence([seed, window]).generate_state(1)[0])


def _go_on(
    constraint: Constraint | None, rows: Sequence[int], drawn: Sequence[Sequence[int]]
) -> Constraint | None:
    """Return a constraint for a window of `rows` that have drawn some tokens before it."""
    if constraint is None:
        return None
    return lambda place, ids: constraint(rows[place], [*drawn[place], *ids])
