"""Stacks of experts in the host's memory, and slots on the device for those in use."""

from __future__ import annotations

import dataclasses
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from twofold.backends.gpu.hot_experts import HotExperts, Key, Uses
from twofold.backends.gpu.weights import GpuWeight, to_device
from twofold.errors import OutOfMemory
from twofold.ops.layout import Packed, Packer
from twofold.ops.types import Target

Copy: TypeAlias = tuple[Key, int]
"""An expert, and the slot it goes into."""
TIMED_COPIES = 3


@dataclass(frozen=True, eq=False)
class Hosted:
    """A stack of experts in the host's memory. layer: which of the layers with experts it belongs to."""

    weight: GpuWeight
    layer: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape [E, N, D]."""
        return self.weight.shape


def tensors(weight: GpuWeight) -> Iterator[Tensor]:
    """The tensors of a stack, the expert as their first axis."""
    for field in dataclasses.fields(weight):
        value = getattr(weight, field.name)
        if isinstance(value, Tensor):
            yield value


def kind_of(weight: GpuWeight) -> tuple[Any, ...]:
    """What two stacks have in common whose experts fit the same slots."""
    return (type(weight), weight.shape[1:], *((tuple(t.shape[1:]), t.dtype) for t in tensors(weight)))


def expert_bytes(weight: GpuWeight) -> int:
    """Bytes of one expert of a stack."""
    return sum(tensor[0].nbytes for tensor in tensors(weight))


def room_for(weight: GpuWeight, slots: int, device: torch.device) -> GpuWeight:
    """A stack of so many experts like those of this one, contents undefined."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(weight):
        value = getattr(weight, field.name)
        if isinstance(value, Tensor):
            changes[field.name] = torch.empty((slots, *value.shape[1:]), dtype=value.dtype, device=device)
        else:
            changes[field.name] = (slots, *weight.shape[1:])
    return dataclasses.replace(weight, **changes)


def pin(weight: GpuWeight) -> list[int]:
    """Have the system keep these pages where they are, so that a CUDA device can fetch them by itself; what to `unpin`.

    In place: torch's own pinned memory is rounded up to a power of two, which may be twice as much.
    Raises OutOfMemory when the system refuses.
    """
    pinned: list[int] = []
    for tensor in tensors(weight):
        code = torch.cuda.cudart().cudaHostRegister(tensor.data_ptr(), tensor.nbytes, 0)  # type: ignore[no-untyped-call]
        if int(code) != 0:
            unpin(pinned)
            raise OutOfMemory(
                f"{tensor.nbytes / 1e9:.2f} GB of host memory for experts cannot be pinned (CUDA error {int(code)}). "
                "Raise the limit of locked memory (ulimit -l), or use a device that holds all weights."
            )
        pinned.append(tensor.data_ptr())
    return pinned


def unpin(pinned: list[int]) -> None:
    """Let go of pages before their memory is freed: whoever gets it next could not pin it."""
    for address in pinned:
        torch.cuda.cudart().cudaHostUnregister(address)  # type: ignore[no-untyped-call]


class HostingPacker:
    """Packs with another packer; experts stay in the host's memory, everything else moves to the device."""

    moves_weights = True

    def __init__(self, host: Packer, device: torch.device) -> None:
        self._device = device
        self.arena = host.arena
        self.encode = host.encode
        self.layers: dict[str, int] = {}
        self.stacks: list[Hosted] = []

    def finish(self, weight: Packed, target: Target) -> GpuWeight | Hosted:
        """The weight where it belongs; the arena is free."""
        if target.role != "expert":
            return to_device(weight, self._device)
        layer = self.layers.setdefault(target.name.rpartition(".")[0], len(self.layers))
        found = Hosted(to_device(weight, torch.device("cpu")), layer)
        if self._device.type == "cuda":
            weakref.finalize(found, unpin, pin(found.weight)).atexit = False
        self.stacks.append(found)
        return found


class Pool:
    """Slots for the experts of some layers, all of one format: gate and up of a slot, and its down.

    Copies run on a stream of their own where the device has streams.
    """

    def __init__(self, pairs: Sequence[tuple[Hosted, Hosted]], slots: int, device: torch.device) -> None:
        first_gate_up, first_down = pairs[0]
        self.experts = HotExperts(slots)
        self.uses = Uses()
        self.gate_up = room_for(first_gate_up.weight, slots, device)
        self.down = room_for(first_down.weight, slots, device)
        self.slot_bytes = expert_bytes(first_gate_up.weight) + expert_bytes(first_down.weight)
        self._pairs = {gate_up.layer: (gate_up, down) for gate_up, down in pairs}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def bring(self, keys: Sequence[Key], kept: Collection[Key], after: Any) -> Any:
        """Have these experts in slots; gives what `wait` is to be told before they are used.

        after: what `mark` gave when everything that may use a slot of another expert had been started.
        """
        missing = self.experts.use(keys, kept)
        self.uses.hits += len(keys) - len(missing)
        self.uses.misses += len(missing)
        self.uses.copied_bytes += len(missing) * self.slot_bytes
        return self.on_stream(lambda: self.copy(missing), after)

    def copy(self, missing: Sequence[Copy]) -> None:
        """Experts into their slots."""
        for (layer, expert), slot in missing:
            for stack, room in zip(self._pairs[layer], (self.gate_up, self.down), strict=True):
                for source, target in zip(tensors(stack.weight), tensors(room), strict=True):
                    target[slot].copy_(source[expert], non_blocking=True)

    def on_stream(self, work: Callable[[], None], after: Any) -> Any:
        """Do something on the stream of copies; the event of its end, None where there are no streams."""
        if self._stream is None:
            work()
            return None
        if after is not None:
            self._stream.wait_event(after)
        with torch.cuda.stream(self._stream):
            work()
            return self._stream.record_event()

    def mark(self) -> Any:
        """The event of everything started so far."""
        return None if self._stream is None else torch.cuda.current_stream(self._stream.device).record_event()

    def wait(self, event: Any) -> None:
        """Start nothing more on the device before an event."""
        if self._stream is not None and event is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(event)

    def copy_seconds(self) -> float:
        """Seconds that one copy takes here, measured; slots are still empty."""
        layer = next(iter(self._pairs))
        seconds = []
        for _ in range(TIMED_COPIES):
            start = time.perf_counter()
            self.copy([((layer, 0), 0)])
            if self._stream is not None:
                torch.cuda.synchronize(self._stream.device)
            seconds.append(time.perf_counter() - start)
        return min(seconds)
