"""Decoding as captured CUDA graphs: one for each number of rows (in steps) and width of the tables (in doublings).

A step of one token per sequence is about ten launches for every layer; replayed as a graph they cost the host one call.
Its batch lies in memory of its own that every step writes anew. Steps that read prompts are run as they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from twofold.backends.gpu import devices
from twofold.backends.gpu.batches import DeviceBatch, arrays_of, blank, bucket_of, flatten, on_host, view, write
from twofold.backends.gpu.cache import GpuCache
from twofold.backends.gpu.ops import Forward
from twofold.ops.steps import width_of
from twofold.ops.types import Batch

MOST_ROWS = 256
"""Rows above which a step is so long that its launches do not matter."""


class Slot:
    """Memory that holds the decoding batches of one bucket, step after step: written on the host, sent in one piece."""

    def __init__(self, rows: int, widths: Sequence[int], device: torch.device) -> None:
        empty = blank(rows, widths)
        arrays, is_local = arrays_of(empty), empty.local_pages is not None
        host_words, is_cuda = torch.from_numpy(flatten(arrays)), device.type == "cuda"
        self._host_words = host_words.pin_memory() if is_cuda else host_words
        self._words = self._host_words.to(device, copy=True)
        self._sent: Any = torch.cuda.Event() if is_cuda else None  # type: ignore[no-untyped-call]
        self._staged = on_host(view(self._host_words, arrays, empty, is_local))
        self._batch = replace(view(self._words, arrays, empty, is_local), slot=self, longest=1)

    def place(self, batch: Batch) -> DeviceBatch:
        """The batch in here, with padding behind it, for steps that are launched from now on."""
        if self._sent:
            self._sent.synchronize()  # what was written before has left
        write(self._staged, batch)
        self._words.copy_(self._host_words, non_blocking=True)
        if self._sent:
            self._sent.record()
        return replace(self._batch, host=batch)


class Slots:
    """The slots of a device, made as they are needed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._slots: dict[tuple[int, ...], Slot] = {}

    def place(self, batch: Batch) -> DeviceBatch:
        """A decoding batch, padded, in its slot, for a step that this thread launches."""
        devices.use(self._device)
        rows = bucket_of(len(batch.tokens_T))
        widths = [width_of(pages.blocks_SB.shape[1]) for pages in batch.kinds]
        slot = self._slots.get((rows, *widths))
        if slot is None:
            slot = self._slots[rows, *widths] = Slot(rows, widths, self._device)
        return slot.place(batch)


@dataclass(eq=False)
class Capture:
    """A graph, what it gives, and the cache it works on."""

    graph: Any
    logits_RV: Tensor
    cache: list[GpuCache]


class Captured:
    """A network's forward function; steps whose batch lies in a slot are captured once and replayed ever after."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._captures: dict[tuple[int, int], Capture] = {}
        self._pool: Any = None

    def __call__(self, ops: Any, batch: Batch, cache: list[GpuCache]) -> Any:
        """Logits of the rows the batch asks for; valid until the next step."""
        if not isinstance(batch, DeviceBatch) or batch.slot is None:
            return self._forward(ops, batch, cache)
        key = (id(batch.slot), id(cache))
        capture = self._captures.get(key)
        if capture is None:
            capture = self._captures[key] = self.capture(ops, batch, cache)
        capture.graph.replay()
        return capture.logits_RV[: batch.rows]

    def capture(self, ops: Any, batch: DeviceBatch, cache: list[GpuCache]) -> Capture:
        """Run the step once, so that every kernel is built, then record it."""
        side = torch.cuda.Stream(ops.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(ops.device))
        with torch.cuda.stream(side):
            self._forward(ops, batch, cache)
        torch.cuda.current_stream(ops.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits_RV = self._forward(ops, batch, cache)
        self._pool = self._pool or graph.pool()
        return Capture(graph, logits_RV, cache)
