"""Steps of few rows, recorded once and played again in one native call.

A decoded token calls some sixteen kernels a layer, most of them for a few microseconds. Which ones, and with what
memory, depends on nothing but the shapes of the batch: the first step of a shape is recorded while it runs, later ones
bring their batch to where it lay and play the record. The head is asked for anew, so that logits are the caller's.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from twofold.backends.cpu.ops import CpuOps, Ints, temperature_factors
from twofold.ops import rope
from twofold.ops.observe import ExpertLoad
from twofold.ops.packed import AnyArray, Dense, Floats, Packed
from twofold.ops.steps import wants_all_rows, width_of
from twofold.ops.types import Array, Batch, Pages, Rope, Temperature

if TYPE_CHECKING:
    from twofold.backends.cpu import _native

Forward = Callable[[Any, Batch, list[Any]], Array]
"""forward(ops, batch, cache) -> logits_RV."""

MOST_ROWS = 64
"""Rows above which a step is so long that asking for its kernels one by one does not matter."""
MOST_RECORDINGS = 64
"""Shapes of batches that are remembered; the one played longest ago goes first."""


class Replayed:
    """A network's forward function; steps of few rows, all of them wanted, are recorded and played ever after."""

    def __init__(self, ops: CpuOps, forward: Forward) -> None:
        self._ops = ops
        self._forward = forward
        self._workspace = Workspace()
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()

    def __call__(self, ops: Any, batch: Batch, cache: list[Any]) -> Array:
        """Logits of the rows the batch asks for."""
        if not (self.may_record(ops) and is_short(batch)):
            return self._forward(ops, batch, cache)
        widths = [width_of(pages.blocks_SB.shape[1]) for pages in batch.kinds]
        key = (id(ops), id(cache), len(batch.tokens_T), len(batch.starts_S), *widths)
        known = self._recordings.get(key)
        if known is None:
            return self.record(key, ops, batch, cache)
        self._recordings.move_to_end(key)
        return known.play(batch)

    def may_record(self, ops: Any) -> bool:
        """Whether nobody wants to see every op. Whoever counts experts is told of them after each step."""
        return ops is self._ops or (isinstance(ops, ExpertLoad) and ops.watched is self._ops)

    def record(self, key: Hashable, ops: Any, batch: Batch, cache: list[Any]) -> Array:
        """Run the step as it comes, and keep how that went unless it failed."""
        self._workspace.clear()
        recorder = Recorder(self._ops, self._workspace, ops if isinstance(ops, ExpertLoad) else None)
        own = placed(batch)
        with recorder.taping():
            self._forward(recorder, own, cache)
        self._recordings[key] = Recording(ops, cache, own, recorder)
        if len(self._recordings) > MOST_RECORDINGS:
            self._recordings.popitem(last=False)
        return recorder.end()


@dataclass(frozen=True, eq=False)
class Recording:
    """A step that can be played. ops and cache are what it was recorded for, kept since they are known by identity."""

    ops: Any
    cache: list[Any]
    batch: Batch
    recorder: Recorder

    def play(self, batch: Batch) -> Array:
        """Logits of a batch of the same shape."""
        for own, given in zip(arrays_of(self.batch), arrays_of(batch), strict=True):
            own[..., : given.shape[-1]] = given
        return self.recorder.play()


class Recorder(CpuOps):
    """The ops while a step is recorded: with the kernels and weights of `ops`, in memory that stays.

    What is computed of the batch alone, outside of kernels, is computed before each step; what `watcher` counts is
    counted behind it.
    """

    def __init__(self, ops: CpuOps, workspace: Workspace, watcher: ExpertLoad | None) -> None:
        vars(self).update(vars(ops))
        self._plain = ops
        self._workspace = workspace
        self._watcher = watcher
        self._derived: dict[Hashable, tuple[Callable[[], tuple[Floats, ...]], tuple[Floats, ...]]] = {}
        self._kept: list[Dense] = []
        self._behind: list[Callable[[], None]] = []
        self._head: Callable[[], Floats] | None = None
        self._tape: _native.Tape | None = None

    @contextmanager
    def taping(self) -> Iterator[None]:
        """Keep the kernels that run meanwhile."""
        self._native.record()
        try:
            yield
        finally:
            self._tape = self._native.recorded()

    def play(self) -> Floats:
        """The step again, for what its batch holds by now."""
        assert self._tape is not None, "a step is played when it was recorded"
        for compute, arrays in self._derived.values():
            for array, fresh in zip(arrays, compute(), strict=True):
                array[...] = fresh
        self._tape.play()
        return self.end()

    def end(self) -> Floats:
        """What is behind the kernels, and the logits."""
        assert self._head is not None, "a network ends with its head"
        for work in self._behind:
            work()
        return self._head()

    def _output(self, *shape: int) -> Floats:
        return self._workspace.floats(shape)

    def _derive(self, key: Hashable, compute: Callable[[], tuple[Floats, ...]]) -> tuple[Floats, ...]:
        """What is computed of the batch alone; asked for in every layer, it is computed once a step."""
        if key not in self._derived:
            self._derived[key] = compute, tuple(np.ascontiguousarray(array) for array in compute())
        return self._derived[key][1]

    def angles(self, positions_T: Ints, setting: Rope) -> tuple[Floats, Floats]:
        """See CpuOps."""
        cosine_TK2, sine_TK2 = self._derive(setting, lambda: rope.cosine_sine(positions_T, setting))
        return cosine_TK2, sine_TK2

    def norm(self, x_TD: Floats, weight_D: Dense, epsilon: float) -> Floats:
        """See CpuOps."""
        self._kept.append(Dense(values=np.asarray(weight_D.values, np.float32)))
        return super().norm(x_TD, self._kept[-1], epsilon)

    def temperature(self, q_THK: Floats, positions_T: Ints, setting: Temperature) -> Floats:
        """See CpuOps; also where it is 1, since later steps are further on."""
        (factors_T,) = self._derive(setting, lambda: (temperature_factors(positions_T, setting),))
        return self._scaled(q_THK, factors_T)

    def route(self, x_TD: Floats, router_ED: Packed, active: int) -> tuple[Ints, Floats]:
        """See CpuOps."""
        experts_TA, gates_TA = super().route(x_TD, router_ED, active)
        watcher = self._watcher
        if watcher is not None:
            self._behind.append(lambda: watcher.count(router_ED, experts_TA.copy()))
        return experts_TA, gates_TA

    def take(self, x_TD: Floats, rows_R: Ints) -> Floats:
        """All rows: only steps that want them are recorded."""
        return x_TD

    def logits(self, x_RD: Floats, head_VD: Packed) -> Floats:
        """Not yet."""
        self._head = partial(CpuOps.logits, self._plain, x_RD, head_VD)
        return x_RD


class Workspace:
    """Memory for what the ops of a step return: an array's is used again as soon as no view of it is left."""

    def __init__(self) -> None:
        self._blocks: list[npt.NDArray[np.uint8]] = []
        self._free: list[npt.NDArray[np.uint8]] = []

    @property
    def size_bytes(self) -> int:
        """All of it."""
        return sum(block.nbytes for block in self._blocks)

    def clear(self) -> None:
        """Before a step is recorded: all memory is free, since no two steps run at the same time."""
        self._free = list(self._blocks)

    def floats(self, shape: tuple[int, ...]) -> Floats:
        """float32 of this shape, contents undefined. Sizes are powers of two, so that steps of other shapes share."""
        size_bytes = 4 * prod(shape)
        fitting = [place for place, block in enumerate(self._free) if block.nbytes >= size_bytes]
        if fitting:
            block = self._free.pop(min(fitting, key=lambda place: self._free[place].nbytes))
        else:
            block = np.empty(1 << max(0, size_bytes - 1).bit_length(), np.uint8)
            self._blocks.append(block)
        owner = np.frombuffer(block.data, np.float32, prod(shape))  # what every view of it keeps alive
        weakref.finalize(owner, self._free.append, block)
        return owner.reshape(shape)


def is_short(batch: Batch) -> bool:
    """Whether the batch has few rows, all of them wanted."""
    return 0 < len(batch.tokens_T) <= MOST_ROWS and wants_all_rows(batch)


def arrays_of(batch: Batch) -> Iterator[AnyArray]:
    """What changes from step to step."""
    yield from (batch.tokens_T, batch.positions_T, batch.starts_S)
    for pages in batch.kinds:
        yield from (pages.slots_T, pages.blocks_SB, pages.bases_S)


def placed(batch: Batch) -> Batch:
    """The batch in memory of its own, block tables widened."""

    def pages(given: Pages) -> Pages:
        columns = given.blocks_SB.shape[1]
        wide_SB = np.pad(given.blocks_SB, ((0, 0), (0, width_of(columns) - columns)), constant_values=-1)
        return Pages(slots_T=given.slots_T.copy(), blocks_SB=wide_SB, bases_S=given.bases_S.copy())

    return replace(
        batch,
        tokens_T=batch.tokens_T.copy(),
        positions_T=batch.positions_T.copy(),
        starts_S=batch.starts_S.copy(),
        global_pages=pages(batch.global_pages),
        local_pages=None if batch.local_pages is None else pages(batch.local_pages),
    )
