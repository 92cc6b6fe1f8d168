"""The ops of a network whose routed experts stay in the host's memory, those in use in slots on the device.

A step asks which experts its tokens chose, has them brought, and runs the same products on the slots: answers are those
of a network that is on the device as a whole. The host must wait for the router once in every layer for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from twofold.backends.gpu import batches
from twofold.backends.gpu.batches import DeviceBatch
from twofold.backends.gpu.hosted import Hosted, HostingPacker, Pool, expert_bytes, kind_of
from twofold.backends.gpu.hot_experts import Key, Uses
from twofold.backends.gpu.ops import TorchOps
from twofold.ops.packed import Packer
from twofold.ops.types import Array, Batch

LEAST_SLOTS = 2
"""With two, one expert is copied while the other is used."""


class OffloadedOps:
    """`inner` with experts that may be Hosted; ops that know nothing of them go straight to it."""

    runs_ahead = False  # a step waits for its routers

    def __init__(self, inner: TorchOps, host: Packer) -> None:
        self.inner = inner
        self.packer = HostingPacker(host, inner.device)
        self.pools: list[Pool] = []
        self._pool_of: dict[int, Pool] = {}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if callable(value):
            setattr(self, name, value)
        return value

    def make_slots(self, budget_bytes: int) -> None:
        """Slots for the stacks that were packed, in at most so many bytes, shared by formats as their bytes are."""
        pairs = list(zip(self.packer.stacks[::2], self.packer.stacks[1::2], strict=True))
        assert all(gate_up.layer == down.layer for gate_up, down in pairs), "gate and up come before down"
        groups: dict[Any, list[tuple[Hosted, Hosted]]] = {}
        for pair in pairs:
            groups.setdefault(tuple(kind_of(stack.weight) for stack in pair), []).append(pair)
        total = sum(stack_bytes(pair) for pair in pairs)
        for group in groups.values():
            share = budget_bytes * sum(map(stack_bytes, group)) // total
            experts = sum(gate_up.shape[0] for gate_up, _ in group)
            slot_bytes = sum(expert_bytes(stack.weight) for stack in group[0])
            slots = min(experts, max(LEAST_SLOTS, share // slot_bytes))
            pool = Pool(group, slots, self.inner.device)
            self.pools.append(pool)
            self._pool_of |= {gate_up.layer: pool for gate_up, _ in group}

    @property
    def uses(self) -> Uses:
        """Hits and misses of all slots so far."""
        found = [pool.uses for pool in self.pools]
        return Uses(
            hits=sum(uses.hits for uses in found),
            misses=sum(uses.misses for uses in found),
            copied_bytes=sum(uses.copied_bytes for uses in found),
        )

    def upload(self, batch: Batch) -> DeviceBatch:
        """All arrays in one transfer; not for a graph, which cannot ask the host for experts."""
        return batches.upload(batch, self.inner.device)

    def experts(self, x_TD: Array, experts_TA: Tensor, gates_TA: Tensor, gate_up: Hosted, down: Hosted) -> Tensor:
        """Every token through each of its experts, at once where all of those fit the slots, else some at a time."""
        pool = self._pool_of[gate_up.layer]
        x_TD, experts_TA, gates_TA = (self.inner.numbers(x) for x in (x_TD, experts_TA, gates_TA))
        needed = torch.unique(experts_TA.cpu()).tolist()  # here the host waits for the router
        keys = [(gate_up.layer, expert) for expert in needed]
        if len(keys) > pool.experts.slots:
            return self.in_turns(x_TD, experts_TA, gates_TA, pool, keys)
        pool.wait(pool.bring(keys, (), pool.mark()))
        return self.run(x_TD, slots_of(pool, keys, experts_TA), gates_TA, pool)

    def in_turns(self, x_TD: Tensor, experts_TA: Tensor, gates_TA: Tensor, pool: Pool, keys: list[Key]) -> Tensor:
        """Half of the slots at a time: while their experts are used, the next ones are copied into the others.

        A token's first expert is computed apart from its second, so that of every expert the same rows run together as
        on the device; what they give is then added in their order.
        """
        turns = in_order(pool, keys)
        y_ATD = torch.zeros(experts_TA.shape[1], len(x_TD), pool.down.shape[1], device=x_TD.device)
        ready = pool.bring(turns[0], (), pool.mark())
        for number, turn in enumerate(turns):
            before = pool.mark()
            pool.wait(ready)
            here = torch.tensor([expert for _, expert in turn], dtype=torch.int32, device=x_TD.device)
            for place, y_TD in enumerate(y_ATD):
                rows = torch.nonzero(torch.isin(experts_TA[:, place], here)).flatten()
                slots_R1 = slots_of(pool, turn, experts_TA[rows, place, None])
                y_TD[rows] = self.run(x_TD[rows], slots_R1, gates_TA[rows, place, None], pool)
            if number + 1 < len(turns):
                ready = pool.bring(turns[number + 1], turn, before)
        return added(y_ATD)

    def run(self, x_TD: Tensor, slots_TA: Tensor, gates_TA: Tensor, pool: Pool) -> Tensor:
        """Products with what is in slots, started at once: a slot may hold another expert soon."""
        return self.inner.numbers(self.inner.experts(x_TD, slots_TA, gates_TA, pool.gate_up, pool.down))


def stack_bytes(pair: tuple[Hosted, Hosted]) -> int:
    """Bytes of all experts of a layer."""
    return sum(stack.shape[0] * expert_bytes(stack.weight) for stack in pair)


def in_order(pool: Pool, keys: list[Key]) -> list[list[Key]]:
    """Experts in turns of half of the slots, those that are there already first."""
    there = [key for key in keys if key in pool.experts.slot_of]
    ordered = there + [key for key in keys if key not in pool.experts.slot_of]
    size = pool.experts.slots // 2
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def slots_of(pool: Pool, keys: Sequence[Key], experts_TA: Tensor) -> Tensor:
    """Slots of chosen experts, which are among these keys; int32."""
    table_E = torch.zeros(1 + max((expert for _, expert in keys), default=0), dtype=torch.int32)
    for key in keys:
        table_E[key[1]] = pool.experts.slot_of[key]
    return table_E.to(experts_TA.device)[experts_TA.long()]


def added(y_ATD: Tensor) -> Tensor:
    """The sum over the experts of every token, in their order."""
    total_TD = torch.zeros_like(y_ATD[0])
    for y_TD in y_ATD:
        total_TD += y_TD
    return total_TD
