"""The engine: takes requests, gives each a slot, reads prompts in chunks between decoding steps.

Token ids in and out; the text is its caller's, the state on the device slots.py's. One thread calls
`run` (or `step`); any thread may `submit` and `cancel`.
"""

import collections
import logging
import math
import threading
from collections.abc import Callable, Sequence

from jaxgpt.errors import JaxgptError
from jaxgpt.inference.decode import Decoder
from jaxgpt.inference.engine.counts import EngineCounts, Tally
from jaxgpt.inference.engine.drafting import OpenCheckpoint, Speculation, Target, no_checkpoint
from jaxgpt.inference.engine.engine_config import EngineConfig
from jaxgpt.inference.engine.guesses import Guesses
from jaxgpt.inference.engine.prefixes import PrefixIndex
from jaxgpt.inference.engine.request import (
    ClosedError,
    ConstraintError,
    Progress,
    QueueFullError,
    Request,
    RequestLimits,
)
from jaxgpt.inference.engine.running import Running, Ticket, not_finite
from jaxgpt.inference.engine.slot_work import SlotWork
from jaxgpt.inference.engine.slots.adapters import AdaptedDecoder, DecoderAdapter

logger = logging.getLogger(__name__)


class Engine:
    """Answers many requests at once over one model.

    Args:
        decoder: the model, its parameters, and which ids end a text or are never drawn.
        config: its size.
        adapters: of the model; requests name them by their numbers, from 1 on.
        speculation: where drafted tokens come from; None: none are drafted.
        open_checkpoint: opens another checkpoint that `speculation` names.

    Attributes:
        max_length: most tokens of a prompt and its answer.
        num_slots: number of requests that are answered at once.
        prefill_chunk: tokens of a prompt that are read at once.
        most_drafts: most tokens that are drafted at once; 0: none are.

    Raises:
        ConfigError: the model, or one that drafts, has too few positions for `config.max_length`.
        JaxgptError: a checkpoint that `speculation` names cannot be opened.
    """

    def __init__(
        self,
        decoder: Decoder,
        config: EngineConfig,
        adapters: Sequence[DecoderAdapter] = (),
        speculation: Speculation | None = None,
        open_checkpoint: OpenCheckpoint = no_checkpoint,
    ) -> None:
        adapted = AdaptedDecoder(decoder, adapters)
        self.max_length = config.max_length or decoder.context_length
        self.num_slots = config.num_slots
        self.prefill_chunk = config.chunk_of(self.max_length)
        self.most_drafts = 0 if speculation is None else speculation.most
        self._config = config
        self._limits = RequestLimits(decoder.model.vocab_size, adapted.largest, self.max_length)
        self._stop_ids = frozenset(adapted.stop_ids)
        size = self.num_slots, self.max_length, self.prefill_chunk
        self._work = SlotWork(adapted, *size, config.steps_per_visit, self.most_drafts)
        target = Target(decoder.model, *size)
        self._guesses = Guesses(speculation, target, open_checkpoint)
        self._prefixes = PrefixIndex(self.num_slots, self.prefill_chunk)
        self._running: dict[int, Running] = {}
        self._waiting: collections.deque[Ticket] = collections.deque()
        self._wake = threading.Condition()
        self._closed = False
        self._tally = Tally()

    def submit(self, request: Request, deliver: Callable[[Progress], None]) -> Ticket:
        """Take a request; `deliver` is called until its `Progress` has a `finish`.

        Raises:
            RequestError: see `RequestLimits.check`.
            QueueFullError: too many requests wait.
            ClosedError: the engine has stopped.
        """
        self._limits.check(request)
        ticket = Ticket(request, deliver)
        with self._wake:
            if self._closed:
                raise ClosedError("the engine has stopped; send the request again later")
            self._check_room(1)
            self._waiting.append(ticket)
            self._wake.notify_all()
        return ticket

    def check_room(self, number: int) -> None:
        """Refuse requests that are still to be made, if the queue has no room for them now.

        Raises:
            QueueFullError: too many requests would wait.
        """
        with self._wake:
            self._check_room(number)

    def _check_room(self, number: int) -> None:
        # A request that finds a slot at once does not wait.
        free = self.num_slots - len(self._running)
        if len(self._waiting) + number - free > self._config.max_waiting:
            raise QueueFullError(
                f"the queue of {self._config.max_waiting} has no room for {number} more: "
                f"{len(self._waiting)} requests wait already; try again in a moment"
            )

    def cancel(self, ticket: Ticket) -> None:
        """End a request, wherever it is; nothing happens if it has ended."""
        ticket.cancelled = True

    def shut(self) -> None:
        """Refuse requests to come, and end all that are there; any thread may call it."""
        with self._wake:
            self._closed = True
            for ticket in (*self._waiting, *(each.ticket for each in self._running.values())):
                ticket.cancelled = True

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; an error ends the requests that have slots, not the engine.

        Raises:
            Exception: the device failed, and has no room for empty slots; all requests are ended.
        """
        try:
            self._run(stop)
        finally:
            self._end()

    @property
    def is_open(self) -> bool:
        """Return whether requests are taken."""
        return not self._closed

    def _end(self) -> None:
        """End all requests, since nobody works on them any longer."""
        with self._wake:
            self._closed = True
            left = [*self._waiting, *(each.ticket for each in self._running.values())]
            self._waiting.clear()
            self._running.clear()
            self._tally.finish("cancelled", len(left))
        for ticket in left:
            ticket.deliver(Progress(finish="cancelled"))

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                worked = self.step()
            except Exception:
                logger.exception("the engine lost the requests that it was answering")
                self._lose_all()
                continue
            if not worked:
                with self._wake:
                    self._wake.wait_for(lambda: self._waiting or stop.is_set(), timeout=0.1)

    def step(self) -> bool:
        """Admit requests, read some of the prompts, decode a few tokens; return if work was done.

        Raises:
            Exception: whatever the device raised; the state is lost then.
        """
        self._drop_cancelled()
        self._admit()
        reading = [running for running in self._running.values() if running.reads]
        # Short ones first: a long prompt does not hold them up, and is never far behind.
        reading.sort(key=lambda running: len(running.request.prompt) - running.num_read)
        room = self.prefill_chunk
        for running in reading:
            # A few short prompts are read at once, so that decoding begins with many slots.
            room -= len(running.next_chunk(self.prefill_chunk))
            self._read(running)
            if room <= 0:
                break
        decoding = [running for running in self._running.values() if not running.reads]
        if decoding:
            self._decode(decoding)
        return bool(reading or decoding)

    def counts(self) -> EngineCounts:
        """Return what the engine has done and does."""
        with self._wake:
            running = list(self._running.values())
            num_held = sum(each.num_read + len(each.drawn) for each in running)
            share = num_held / (self.num_slots * self.max_length)
            return self._tally.counts(len(running), len(self._waiting), share)

    def _drop_cancelled(self) -> None:
        with self._wake:
            waiting = [ticket for ticket in self._waiting if ticket.cancelled]
            self._waiting = collections.deque(t for t in self._waiting if not t.cancelled)
            self._tally.finish("cancelled", len(waiting))
        for ticket in waiting:
            ticket.deliver(Progress(finish="cancelled"))
        for running in list(self._running.values()):
            if running.ticket.cancelled:
                self._deliver(running, running.progress(finish="cancelled"))

    def _admit(self) -> None:
        while True:
            with self._wake:
                free = [s for s in range(self.num_slots) if s not in self._running]
                if not free or not self._waiting:
                    return
                ticket = self._waiting.popleft()
                request = ticket.request
                beginning = request.prompt, request.adapter
                slot, source, length = self._prefixes.find(*beginning, free)
                if request.score_prompt:
                    # Scores are made while a prompt is read: all of it is.
                    source, length = slot, 0
                running = Running(ticket, slot, num_read=length, num_reused=length)
                self._running[slot] = running
                self._tally.read(len(request.prompt), length)
            self._prefixes.begin(slot, *beginning, length)
            self._work.begin(running, source)

    def _read(self, running: Running) -> None:
        """Read one more chunk of a prompt; after its last, draw the first token."""
        start = running.num_read
        logits_V = self._work.read(running)
        request = running.request
        if running.reads:
            if not request.score_prompt:
                self._prefixes.add(running.slot, request.prompt[start : running.num_read])
        elif any(math.isnan(score.log_probability) for score in running.prompt_scores[1:]):
            self._deliver(running, running.progress(finish="error", error=not_finite()))
        elif request.max_new_tokens:
            try:
                progress = running.cut(self._work.draw_first(running, logits_V), self._stop_ids)
            except ConstraintError as error:
                progress = running.progress(finish="error", error=error)
            self._deliver(running, progress)
        else:
            self._deliver(running, running.progress(finish="length"))

    def _decode(self, decoding: list[Running]) -> None:
        """Draw a few tokens in all slots whose prompts are read."""
        bound: set[int] = set()
        able: list[Running] = []
        for running in decoding:
            try:
                if self._work.fill(running):
                    bound.add(running.slot)
                able.append(running)
            except ConstraintError as error:
                self._deliver(running, running.progress(finish="error", error=error))
        if not able:
            return
        drafts = self._guesses.make(able, bound, self._work)
        # With other bits, a request's answer would depend on the drafts of others.
        if any(drafts) or not self._work.verifies_alike:
            drawn = self._work.verify(able, drafts)
        else:
            left = min(running.room for running in able)
            num_steps = 1 if bound else min(self._config.steps_per_visit, left)
            drawn = self._work.decode(able, num_steps, bool(bound))
        for running, tokens, guessed in zip(able, drawn, drafts, strict=True):
            try:
                progress = running.cut(tokens, self._stop_ids)
            except ConstraintError as error:
                progress = running.progress(finish="error", error=error)
            num_accepted = min(progress.num_kept, len(tokens) - 1) if guessed else 0
            progress = progress._replace(num_drafted=len(guessed), num_accepted=num_accepted)
            self._deliver(running, progress)

    def _deliver(self, running: Running, progress: Progress) -> None:
        with self._wake:
            self._tally.add(progress)
            if progress.finish is not None:
                del self._running[running.slot]
                self._work.leave(running)
                self._tally.finish(progress.finish)
        running.ticket.deliver(progress)

    def _lose_all(self) -> None:
        """End all requests that have slots, whose state is lost, and begin with empty ones."""
        error = JaxgptError("the engine failed; its log says more")
        for running in list(self._running.values()):
            self._deliver(running, running.progress(finish="error", error=error))
        self._prefixes.forget()
        self._work.reset()
        self._guesses.reset()
