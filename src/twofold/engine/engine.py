"""The engine: requests in, events out, one step at a time."""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

from twofold.engine import invariants
from twofold.engine.ahead import Behind, Flight, plan_behind
from twofold.engine.batch import build_batch
from twofold.engine.blocks import Blocks, CacheLayout, Kind
from twofold.engine.guess import MOST_SEQUENCES, Guesser
from twofold.engine.limits import EngineLimits
from twofold.engine.masks import mask_of
from twofold.engine.pace import Pace
from twofold.engine.plan import Plan, Slice
from twofold.engine.request import Constraint, Event, Request, SamplingParams, Sequence, SessionName
from twofold.engine.scheduler import NO_GUESSES, Scheduler
from twofold.errors import InvalidSampling, RequestError, RequestTooLong
from twofold.ops.types import Array, Batch, CacheShape, LayerCache

log = logging.getLogger("twofold.engine")


class Engine:
    """One network on one backend, serving many sequences.

    `forward(ops, batch, cache)` gives logits_RV; `guesser` makes steps confirm several tokens (None: never).
    Not thread-safe: one caller drives it (engine/runner.py). latest: the plan of the last step.
    """

    def __init__(
        self,
        ops: Any,
        forward: Callable[[Any, Batch, Any], Array],
        cache_shape: CacheShape,
        layout: CacheLayout,
        limits: EngineLimits,
        guesser: Guesser | None = None,
    ) -> None:
        self.ops = ops
        self.forward = forward
        self.limits = limits
        self.chunks = cache_shape.chunks
        self.blocks = Blocks(layout, limits.prefix_cache)
        self.cache = ops.new_cache(cache_shape, (layout.global_blocks, layout.local_blocks), layout.block_size)
        self.scheduler = Scheduler(self.blocks, limits.step_tokens, limits.max_sequences, limits.judging_rows)
        self.pace = Pace(limits.step_s)
        self.guesser = guesser
        self.latest: Plan | None = None
        self.in_flight: Plan | None = None
        self.flight: Flight | None = None
        self._ids = itertools.count()

    def add(self, prompt: Collection[int], params: SamplingParams, eos_ids: Collection[int] = ()) -> Request:
        """Queue a prompt; its tokens arrive as events of later steps. Raises what `prepare` raises."""
        request = self.prepare(prompt, params, eos_ids)
        self.enqueue(request)
        return request

    def prepare(
        self,
        prompt: Collection[int],
        params: SamplingParams,
        eos_ids: Collection[int] = (),
        constraint: Constraint | None = None,
        salt: bytes = b"",
        owner: bytes = b"",
        session: SessionName | None = None,
    ) -> Request:
        """Check a prompt and its settings and number the request (see Request); safe to call from any thread.

        Raises RequestTooLong when prompt and answer cannot fit, InvalidSampling for ids outside the vocabulary.
        """
        room = self.limits.context - len(prompt)
        self.check_prompt(prompt, room, params.max_tokens)
        self.check_ids((*prompt, *params.named_ids))
        ids = params.allowed_token_ids
        stop_ids = {*params.stop_token_ids, *(() if params.ignore_eos else eos_ids)}
        return Request(
            id=next(self._ids),
            prompt=tuple(prompt),
            params=params,
            seed=secrets.randbits(63) if params.seed is None else params.seed,
            stop_ids=frozenset(stop_ids),
            max_tokens=room if params.max_tokens is None else max(1, params.max_tokens),
            constraint=constraint,
            salt=salt,
            owner=owner,
            session=session,
            allowed=None if ids is None else mask_of(ids, self.limits.vocabulary),
        )

    def enqueue(self, request: Request) -> None:
        """Queue a request that `prepare` made."""
        self.scheduler.add(Sequence(request=request, tokens=list(request.prompt)))

    def check_prompt(self, prompt: Collection[int], room: int, max_tokens: int | None) -> None:
        """Refuse prompts that are empty or leave no room for the answer asked for."""
        if not prompt:
            raise RequestTooLong("the prompt has no tokens; at least one is needed")
        needed = 1 if max_tokens is None else max_tokens
        if room < needed:
            raise RequestTooLong(
                f"the prompt has {len(prompt)} tokens and the answer may take {needed}; "
                f"this engine holds {self.limits.context}. Shorten the prompt, lower max_tokens or raise context."
            )

    def check_ids(self, tokens: Collection[int]) -> None:
        """Refuse ids the embedding table does not have."""
        for token in tokens:
            if not 0 <= token < self.limits.vocabulary:
                raise InvalidSampling(
                    f"token id {token} is outside the vocabulary of {self.limits.vocabulary}; "
                    "the tokenizer or the ids belong to another model"
                )

    def cancel(self, request_id: int) -> None:
        """Stop a request; its blocks are free at once."""
        self.scheduler.cancel(request_id)

    def step(self) -> list[Event]:
        """Advance every scheduled sequence by one step; [] when idle."""
        start = time.perf_counter()
        running = self.scheduler.running if self.guesser else ()
        decoding = [sequence for sequence in running if sequence.pending == 1]
        guesser = self.guesser if 0 < len(decoding) <= MOST_SEQUENCES else None
        flight, self.flight = self.flight, None
        if flight and not flight.plan.is_over:
            plan: Plan | None = flight.plan
            if guesser:
                guesser.begin()
        else:
            guesses = guesser.propose(decoding, self.reading_s) if guesser else NO_GUESSES
            plan, flight = self.scheduler.plan(guesses, self.pace.rows), None
        self.latest = plan
        if plan is None:
            return []
        if flight is None and plan.draws_once and self.ops.runs_ahead:
            flight = self.launch(plan)
        events = self.land(flight) if flight else self.advance(plan)
        self.pace.learn(plan.reading_rows, plan.decoding, time.perf_counter() - start)
        if guesser:
            guesser.learn(plan, events)
        if self.limits.checks:
            self.check()
        return events

    def advance(self, plan: Plan) -> list[Event]:
        """Run a plan and take over its results. When it raises, `in_flight` is the plan, of which nothing counts."""
        self.in_flight = plan
        try:
            drawn = self.ops.sample(self.run(plan), plan.sampling)
        except RequestError:
            if not any(item.guesses for item in plan.slices):
                raise
            return self.advance(plan.without_guesses)  # after a wrong guess there may be nothing to draw
        self.in_flight = None
        return self.scheduler.commit(plan, drawn)

    def launch(self, plan: Plan) -> Flight:
        """Begin a step. When it raises, see `advance`."""
        self.in_flight = plan
        return Flight(plan=plan, drawing=self.ops.begin_sample(self.run(plan), plan.sampling))

    def land(self, flight: Flight) -> list[Event]:
        """Launch the step behind a flight, if that can be, and take over the flight. When it raises, see `advance`."""
        self.in_flight = flight.plan.without_ended()
        behind = self.plan_behind(flight.plan)
        logits_RV = self.run_behind(behind, flight) if behind else None
        tokens = flight.drawing.result()
        drawn = [token for item, token in zip(flight.plan.slices, tokens, strict=True) if not item.sequence.is_over]
        plan, self.in_flight = self.in_flight, None
        events = self.scheduler.commit(plan, drawn)
        if behind and flight.drawing.is_final:
            self.flight = self.fly(behind.plan, logits_RV)
        return events

    def fly(self, plan: Plan, logits_RV: Array) -> Flight | None:
        """Begin to draw from a step that was launched; None where that fails, for then it is run again by itself."""
        try:
            return Flight(plan=plan, drawing=self.ops.begin_sample(logits_RV, plan.sampling))
        except RequestError:
            return None  # nothing may come next in one of them: the same step will say so
        except Exception:  # raised here it would lose the flight's events; run again, the step raises for itself
            log.exception("the step behind another cannot be drawn from; it is run again")
            return None

    def plan_behind(self, plan: Plan) -> Behind | None:
        """The step that can be launched behind this one."""
        is_quiet = not self.guesser or len(plan.slices) > MOST_SEQUENCES or self.guesser.is_quiet(len(plan.slices))
        return plan_behind(plan, self.scheduler) if is_quiet else None

    def run_behind(self, behind: Behind, flight: Flight) -> Array:
        """The network over the step behind a flight."""
        batch = build_batch(behind.plan.slices, self.blocks.layout)
        return self.forward(self.ops, self.ops.upload_after(batch, flight.drawing, behind.rows), self.cache)

    @property
    def reading_s(self) -> float:
        """Seconds the next step will take for prompts, as far as the sequences that run tell."""
        unread = sum(sequence.pending for sequence in self.scheduler.running if sequence.pending > 1)
        return self.pace.reading_s(min(unread, self.pace.rows or self.limits.step_tokens))

    def check(self) -> None:
        """Raise AssertionError when the bookkeeping is in disorder; see engine.invariants."""
        invariants.check(self.scheduler)
        if self.guesser and self.guesser.draft:
            invariants.check_draft(self.guesser.draft)

    def run(self, plan: Plan) -> Array:
        """The network over a plan: logits of its sampled rows."""
        batch = self.ops.upload(build_batch(plan.slices, self.blocks.layout))
        return self.forward(self.ops, batch, self.cache)

    def layers(self, kind: Kind) -> list[LayerCache]:
        """The caches of the global layers, or of the local ones."""
        return [
            layer for layer, chunk in zip(self.cache, self.chunks, strict=True) if (chunk is None) == (kind == "global")
        ]

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.scheduler.running or self.scheduler.waiting)

    def score(self, tokens: Collection[int]) -> Iterator[Array]:
        """Logits after every token of a text, [count, V] for each stretch of at most step_tokens.

        Runs by itself, so the engine must be idle. Raises RequestTooLong beyond the context.
        """
        assert self.is_idle, "score shares the cache with nobody"
        if not 0 < len(tokens) <= self.limits.context:
            raise RequestTooLong(f"{len(tokens)} tokens to score; this engine holds 1 to {self.limits.context}")
        self.check_ids(tokens)
        request = Request(
            id=-1, prompt=tuple(tokens), params=SamplingParams(), seed=0, stop_ids=frozenset(), max_tokens=1
        )
        sequence = Sequence(request=request, tokens=list(tokens))
        try:
            while sequence.pending:
                count = min(sequence.pending, self.limits.step_tokens)
                assert self.blocks.reserve(sequence, count), "the context fits the empty cache"
                part = build_batch([Slice(sequence=sequence, count=count)], self.blocks.layout, all_rows=True)
                yield self.ops.download(self.forward(self.ops, self.ops.upload(part), self.cache))
                sequence.computed += count
        finally:
            self.blocks.release(sequence)
