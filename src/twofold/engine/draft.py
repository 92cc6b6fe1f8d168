"""A draft model: a small network with the same vocabulary that guesses what the large one will say.

It keeps a cache of its own, in which it follows each sequence: tokens it has not seen are read before it guesses, and
what it guessed wrong is forgotten. Its memory never takes a block from the network it serves.

Source: Leviathan et al. 2023 (speculative decoding).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import Any

from twofold.engine.batch import build_batch
from twofold.engine.blocks import Blocks, CacheLayout
from twofold.engine.plan import Slice
from twofold.engine.request import Request, Sequence
from twofold.errors import RequestError
from twofold.ops.types import Array, Batch, CacheShape

log = logging.getLogger("twofold.engine")


@dataclass(kw_only=True, eq=False)
class Follower:
    """The draft model's copy of a sequence: its first `confirmed` tokens are the sequence's own, then come guesses."""

    sequence: Sequence
    confirmed: int = 0

    def follow(self, tokens: Many[int]) -> None:
        """Take over the sequence's tokens; of what was computed for guesses only the right ones stay."""
        own = self.sequence
        same = self.confirmed
        while same < min(len(own.tokens), len(tokens)) and own.tokens[same] == tokens[same]:
            same += 1
        own.tokens[same:] = tokens[same:]
        own.computed = min(own.computed, same, len(tokens) - 1)  # the newest token is run again: its logits are needed
        self.confirmed = len(tokens)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Guess at most `most` tokens of this sequence."""

    sequence: Sequence
    most: int


class DraftModel:
    """A network on a backend with a cache of its own; `context` is the longest sequence it can follow.

    read_tokens, read_s: what it read to catch up; guess_s: seconds spent guessing.
    """

    def __init__(
        self,
        ops: Any,
        forward: Callable[[Any, Batch, Any], Array],
        cache_shape: CacheShape,
        layout: CacheLayout,
        context: int,
        step_tokens: int,
    ) -> None:
        self.ops = ops
        self.forward = forward
        self.context = context
        self.step_tokens = step_tokens
        self.blocks = Blocks(layout)
        self.cache = ops.new_cache(cache_shape, (layout.global_blocks, layout.local_blocks), layout.block_size)
        self.followers: dict[int, Follower] = {}

    def behind(self, sequence: Sequence) -> int:
        """Tokens of the sequence that it has not read yet."""
        follower = self.followers.get(sequence.request.id)
        return len(sequence.tokens) - (min(follower.confirmed, follower.sequence.computed) if follower else 0)

    def keep_only(self, alive: Collection[int]) -> None:
        """Forget the requests that are not among these."""
        for request_id in [known for known in self.followers if known not in alive]:
            self.forget(request_id)

    def forget(self, request_id: int) -> None:
        """Free what is held for a request."""
        self.blocks.release(self.followers.pop(request_id).sequence)

    def read(self, sequence: Sequence) -> bool:
        """Catch up with all but the newest token of a sequence; False when there is no room for it."""
        if not self.fits(sequence, 1):
            return False
        follower = self.follow(sequence)
        own = follower.sequence
        while own.pending > 1:
            count = min(own.pending - 1, self.step_tokens)
            if not self.make_room(own, count, keep={sequence.request.id}):
                return False
            self.run([Slice(sequence=own, count=count)])
            own.computed += count
        return True

    def guess(self, wishes: Many[Wish]) -> dict[int, tuple[int, ...]]:
        """Guesses by request id, drawn greedily one after another; none for a sequence that does not fit.

        They end where nothing can be drawn.
        """
        wanted: list[tuple[Sequence, int]] = []
        keep = {wish.sequence.request.id for wish in wishes}
        for wish in wishes:
            own = self.follow(wish.sequence).sequence
            fits = self.fits(own, wish.most) and own.pending <= self.step_tokens
            if fits and self.make_room(own, own.pending + wish.most - 1, keep):
                wanted.append((own, len(own.tokens) + wish.most))
        starts = {own.request.id: len(own.tokens) for own, _ in wanted}
        guessing = wanted
        while guessing:
            try:
                self.extend([own for own, _ in guessing])
            except RequestError as error:  # nothing may come next, or the draft model is damaged: the network will tell
                log.debug("guessing ended: %s", error)
                break
            guessing = [(own, stop) for own, stop in guessing if not is_over(own, stop)]
        return {own.request.id: tuple(own.tokens[starts[own.request.id] :]) for own, _ in wanted}

    def fits(self, sequence: Sequence, more: int) -> bool:
        """Whether the sequence and `more` tokens are within what this network was made for."""
        return len(sequence.tokens) + more <= self.context

    def extend(self, many: list[Sequence]) -> None:
        """One step: the likeliest next token of each sequence, after its penalties and biases."""
        slices = [Slice(sequence=own, count=own.pending) for own in many]
        rows = [replace(own.row_sampling(), temperature=0.0, logprobs=-1) for own in many]
        for item, drawn in zip(slices, self.ops.sample(self.run(slices), rows), strict=True):
            item.sequence.computed += item.count
            item.sequence.tokens.append(drawn.token)

    def run(self, slices: list[Slice]) -> Array:
        """The network over these slices: logits of those that end with their last token."""
        return self.forward(self.ops, self.ops.upload(build_batch(slices, self.blocks.layout)), self.cache)

    def follow(self, sequence: Sequence) -> Follower:
        """The copy of a sequence, brought up to its tokens; the latest used is the last in `followers`."""
        request = sequence.request
        follower = self.followers.pop(request.id, None) or Follower(
            sequence=Sequence(request=plain(request), tokens=[])
        )
        self.followers[request.id] = follower
        follower.follow(sequence.tokens)
        return follower

    def make_room(self, own: Sequence, count: int, keep: Collection[int]) -> bool:
        """Reserve blocks, forgetting the sequences that waited longest; False when even that is not enough."""
        while not self.blocks.reserve(own, count):
            oldest = next((known for known in self.followers if known not in keep), None)
            if oldest is None:
                return False
            self.forget(oldest)
        return True


def plain(request: Request) -> Request:
    """The request without what only the network itself can do: judge the prompt, and what a grammar knows."""
    params = replace(request.params, prompt_logprobs=None, max_tokens=None)
    return replace(request, params=params, constraint=None)


def is_over(own: Sequence, stop: int) -> bool:
    """Whether a copy has its guesses, or has guessed that the answer ends."""
    return len(own.tokens) >= stop or own.tokens[-1] in own.request.stop_ids
