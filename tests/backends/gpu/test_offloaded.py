"""Experts in the host's memory: answers are those of a network on the device, and slots are never more than allowed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from twofold.backends.cpu.ops import CpuOps
from twofold.backends.gpu.hosted import Hosted, HostingPacker, tensors
from twofold.backends.gpu.offloaded import OffloadedOps
from twofold.backends.gpu.ops import TorchOps
from twofold.errors import OutOfMemory
from twofold.ops.cases import FORMATS, outliers, pack
from twofold.ops.packed import Format
from twofold.ops.types import Target

LAYERS, EXPERTS, HIDDEN, WIDTH = 3, 6, 70, 40
STACKED = [form for form in FORMATS if form != "refined"]


class Pair:
    """The same network's experts, all on the device and in the host's memory."""

    def __init__(self, form: Format, slots: int) -> None:
        rng = np.random.default_rng(7)
        self.whole = TorchOps("cpu", CpuOps().packer, "f32")
        self.some = OffloadedOps(TorchOps("cpu", CpuOps().packer, "f32"), CpuOps().packer)
        self.weights = []
        for layer in range(LAYERS):
            stacks = []
            for name, rows, columns in (("gate_up", 2 * WIDTH, HIDDEN), ("down", HIDDEN, WIDTH)):
                values = rng.standard_normal((EXPERTS, rows, columns), np.float32) / 6
                weight = pack(CpuOps(), form, values)
                target = Target(name=f"layers.{layer}.experts_{name}", role="expert", shape=values.shape, sources=())
                stacks.append((self.whole.packer.finish(weight, target), self.some.packer.finish(weight, target)))
            self.weights.append(stacks)
        self.some.make_slots(1)
        size = self.some.pools[0].slot_bytes
        self.some.pools.clear()
        self.some.make_slots(slots * size)
        self.pool = self.some.pools[0]

    def check(self, layer: int, x_TD: Tensor, experts_TA: Tensor, gates_TA: Tensor) -> None:
        """Both give the same bits."""
        (gate_up, hosted_gate_up), (down, hosted_down) = self.weights[layer]
        expected = self.whole.experts(x_TD, experts_TA, gates_TA, gate_up, down)
        found = self.some.experts(x_TD, experts_TA, gates_TA, hosted_gate_up, hosted_down)
        assert torch.equal(found, expected)
        assert len(self.pool.experts.slot_of) <= self.pool.experts.slots


def routing(rng: np.random.Generator, tokens: int, active: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, their experts and gates."""
    chosen = np.array([rng.permutation(EXPERTS)[:active] for _ in range(tokens)], np.int32).reshape(tokens, active)
    gates = rng.uniform(0.1, 1, (tokens, active)).astype(np.float32)
    return torch.from_numpy(outliers(rng, tokens, HIDDEN)), torch.from_numpy(chosen), torch.from_numpy(gates)


@pytest.mark.parametrize("form", STACKED)
@pytest.mark.parametrize("slots", [2, 5])
def test_answers_are_those_of_experts_on_the_device(form: Format, slots: int) -> None:
    pair, rng = Pair(form, slots), np.random.default_rng(8)
    assert pair.pool.experts.slots == slots
    for step in range(6):
        for layer in range(LAYERS):
            pair.check(layer, *routing(rng, (1, 17, 3)[step % 3], 1 + step % 2))
    assert pair.some.uses.misses > slots  # some had to go
    assert pair.some.uses.copied_bytes == pair.some.uses.misses * pair.pool.slot_bytes


def test_an_expert_of_two_tokens_is_copied_once() -> None:
    pair, rng = Pair("int4", 3), np.random.default_rng(9)
    x_TD, _, gates_TA = routing(rng, 4, 1)
    chosen = torch.tensor([[2], [4], [2], [2]], dtype=torch.int32)
    pair.check(0, x_TD, chosen, gates_TA)
    assert (pair.some.uses.hits, pair.some.uses.misses) == (0, 2)
    pair.check(0, x_TD, chosen, gates_TA)
    assert (pair.some.uses.hits, pair.some.uses.misses) == (2, 2)


def test_there_are_no_more_slots_than_experts_and_never_fewer_than_two() -> None:
    assert Pair("int8", 99).pool.experts.slots == LAYERS * EXPERTS
    assert Pair("int8", 1).pool.experts.slots == 2


def test_no_tokens_need_no_expert() -> None:
    pair = Pair("bf16", 2)
    pair.check(1, torch.zeros(0, HIDDEN), torch.zeros(0, 1, dtype=torch.int32), torch.zeros(0, 1))
    assert pair.some.uses.misses == 0


def test_layers_of_two_formats_have_slots_of_their_own() -> None:
    ops = OffloadedOps(TorchOps("cpu", CpuOps().packer, "f32"), CpuOps().packer)
    rng = np.random.default_rng(3)
    forms: tuple[Format, ...] = ("int4", "int8", "int4")
    for layer, form in enumerate(forms):
        for name in ("gate_up", "down"):
            values = rng.standard_normal((EXPERTS, 64, 64), np.float32)
            target = Target(name=f"layers.{layer}.experts_{name}", role="expert", shape=values.shape, sources=())
            ops.packer.finish(pack(CpuOps(), form, values), target)
    ops.make_slots(60_000)
    assert len(ops.pools) == 2
    assert sum(pool.experts.slots * pool.slot_bytes for pool in ops.pools) <= 60_000
    assert all(pool.experts.slots > 2 for pool in ops.pools)


class Runtime:
    """What CUDA's runtime does about pinned pages: an address cannot be pinned twice; the one at `limit` is refused."""

    def __init__(self, limit: int = 1000) -> None:
        self.pinned: list[int] = []
        self.limit = limit

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        if address in self.pinned:
            return 712
        if len(self.pinned) >= self.limit:
            return 2
        self.pinned.append(address)
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        self.pinned.remove(address)
        return 0


def hosted(monkeypatch: pytest.MonkeyPatch, runtime: Runtime) -> Hosted:
    """A stack of experts, its pages pinned for a CUDA device."""
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    values = np.random.default_rng(1).standard_normal((2, 64, 64), np.float32)
    target = Target(name="layers.0.experts_down", role="expert", shape=values.shape, sources=())
    found = HostingPacker(CpuOps().packer, torch.device("cuda")).finish(pack(CpuOps(), "int4", values), target)
    assert isinstance(found, Hosted)
    return found


def test_pages_are_pinned_as_long_as_their_experts_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime()
    found = hosted(monkeypatch, runtime)
    assert sorted(runtime.pinned) == sorted(tensor.data_ptr() for tensor in tensors(found.weight))
    del found
    assert runtime.pinned == []


def test_what_was_pinned_before_a_refusal_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(limit=2)
    with pytest.raises(OutOfMemory, match=r"cannot be pinned \(CUDA error 2\)"):
        hosted(monkeypatch, runtime)
    assert runtime.pinned == []
