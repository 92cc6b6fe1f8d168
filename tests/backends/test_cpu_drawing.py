"""Drawing on native kernels: the passes of every instruction set, and the tokens of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from twofold.backends.cpu import machine
from twofold.backends.cpu.ops import CpuOps, load_native
from twofold.backends.cpu.passes import NativePasses
from twofold.errors import BadLogits, InvalidSampling
from twofold.ops.sampling import PLAIN, sample
from twofold.ops.types import RowSampling

ISAS = machine.testable_isas()
COUNTS = (1, 5, 16, 127, 128, 1023, 1024, 1025, 3000, 40_000)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("count", COUNTS)
def test_passes_are_those_of_the_reference(isa: str, count: int) -> None:
    passes = NativePasses(CpuOps(isa)._native)
    logits = np.random.default_rng(count).normal(size=count).astype(np.float32) * 5
    logits[count // 2] = -np.inf
    largest = float(logits.max(initial=-50.0))
    for temperature in (1.0, 0.3, 0.0):
        weights, sums = passes.weigh(logits, largest, temperature)
        expected, expected_sums = PLAIN.weigh(logits, largest, temperature)
        np.testing.assert_allclose(weights, expected, rtol=4e-7, atol=1e-37)
        np.testing.assert_allclose(sums, expected_sums, rtol=4e-7, atol=1e-37)
    for floor in (-np.inf, -3.0, float(logits[0]), 9.0, np.inf):
        assert passes.reach(logits, floor).tolist() == PLAIN.reach(logits, floor).tolist()


def test_what_was_found_is_not_overwritten_by_the_next_call() -> None:
    passes = NativePasses(CpuOps()._native)
    first = passes.reach(np.array([1, 5, 5], np.float32), 2.0)
    passes.reach(np.array([9, 9, 9], np.float32), 2.0)
    assert first.tolist() == [1, 2]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"top_p": 0.9}, {"top_k": 40}, {"top_k": 40, "top_p": 0.8}, {"min_p": 0.02}, {"logprobs": 3},
     {"repetition_penalty": 1.2, "prompt": (1, 2, 3)}, {"temperature": 0.0}, {"temperature": 1e-40}],
)  # fmt: skip
def test_tokens_are_those_of_the_reference(isa: str, settings: dict[str, Any]) -> None:
    seed = 7
    print(f"seed {seed}")
    logits = np.random.default_rng(seed).normal(size=(60, 5000)).astype(np.float32) * 3
    rows = [RowSampling(**{"temperature": 0.8, "seed": 5, **settings, "step": step}) for step in range(len(logits))]
    found, expected = CpuOps(isa).sample(logits, rows), sample(logits, rows)
    assert [drawn.token for drawn in found] == [drawn.token for drawn in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.logprob is None) == (other.logprob is None)
        if one.logprob is not None:
            assert one.logprob == pytest.approx(other.logprob, abs=1e-6)
            assert [token for token, _ in one.alternatives] == [token for token, _ in other.alternatives]


CUTS: list[dict[str, Any]] = [
    {}, {"top_p": 0.5}, {"top_p": 0.999}, {"min_p": 0.3}, {"top_p": 0.8, "min_p": 0.02}, {"top_k": 1}, {"top_k": 3000},
    {"top_k": 2999}, {"top_k": 5000}, {"top_k": 50, "min_p": 0.1}, {"top_k": 200, "top_p": 0.7}, {"top_p": 1e-9},
]  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("spread", [0.0, 0.3, 4.0])
def test_rows_of_any_spread_draw_what_the_passes_draw_one_by_one(isa: str, spread: float) -> None:
    seed = 3
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    logits = (random.normal(size=(len(CUTS) * 4, 3000)) * spread).round(1 if spread > 1 else 7).astype(np.float32)
    rows = [
        RowSampling(**{"temperature": 0.9, "seed": 1, "step": step, **CUTS[step // 4]}) for step in range(len(logits))
    ]
    ops = CpuOps(isa)
    expected = [drawn.token for drawn in sample(logits, rows, NativePasses(ops._native))]
    assert [drawn.token for drawn in ops.sample(logits, rows)] == expected
    alone = [ops.sample(logits[place : place + 1], rows[place : place + 1])[0].token for place in range(len(rows))]
    assert alone == expected


@pytest.mark.parametrize("isa", ISAS)
def test_a_vocabulary_that_threads_share_draws_the_same(isa: str) -> None:
    logits = np.random.default_rng(2).normal(size=(3, 70_001)).astype(np.float32) * 2
    rows = [RowSampling(seed=seed, temperature=0.7, top_p=0.95) for seed in range(3)]
    ops = CpuOps(isa)
    expected = [drawn.token for drawn in sample(logits, rows, NativePasses(ops._native))]
    found, module = [], load_native()
    before = module.threads()
    try:
        for threads in (1, 2, 3):
            module.set_threads(threads)
            found.append([drawn.token for drawn in ops.sample(logits, rows)])
            found.append([ops.sample(logits[place : place + 1], [row])[0].token for place, row in enumerate(rows)])
    finally:
        module.set_threads(before)
    assert found == [expected] * len(found)


@pytest.mark.parametrize("isa", ISAS)
def test_of_equal_logits_the_first_is_the_best_wherever_it_is(isa: str) -> None:
    ops, greedy = CpuOps(isa), RowSampling(temperature=0.0)
    for count in COUNTS:
        for place in {0, count // 3, count - 1}:
            logits = np.full((1, count), -1.0, np.float32)
            logits[0, place:] = 2.0
            logits[0, -1] = 2.0
            assert ops.sample(logits, [greedy])[0].token == place


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("place", [0, 63, 700, 998])
def test_logits_that_are_no_numbers_are_told(isa: str, place: int) -> None:
    ops = CpuOps(isa)
    logits = np.random.default_rng(0).normal(size=(2, 999)).astype(np.float32)
    rows = [RowSampling(temperature=temperature, seed=1) for temperature in (0.0, 1.0)]
    for broken in (np.nan, np.inf):
        for row in range(2):
            values = logits.copy()
            values[row, place] = broken
            with pytest.raises(BadLogits, match=f"the best logit is {broken}"):
                ops.sample(values, rows)
    with pytest.raises(BadLogits, match="the best logit is -inf"):
        ops.sample(np.full((1, 9), -np.inf, np.float32), rows[:1])
    with pytest.raises(InvalidSampling, match="no token may come next"):
        ops.sample(logits[:1, :3], [RowSampling(banned=(0, 1, 2))])


def test_rows_with_wishes_of_their_own_stand_beside_others() -> None:
    logits = np.random.default_rng(1).normal(size=(5, 500)).astype(np.float32)
    rows = [
        RowSampling(seed=1, top_p=0.9),
        RowSampling(seed=2, banned=(3,), logprobs=2),
        RowSampling(token=7, logprobs=1),
        RowSampling(seed=3, logprobs=3),
        RowSampling(temperature=0.0, allowed=bytes([0, 0b100])),
    ]
    found, expected = CpuOps().sample(logits, rows), sample(logits, rows)
    assert [drawn.token for drawn in found] == [drawn.token for drawn in expected]
    assert [drawn.rank for drawn in found] == [drawn.rank for drawn in expected]
    assert [len(drawn.alternatives) for drawn in found] == [0, 2, 1, 3, 0]
    assert [drawn.logprob for drawn in found] == pytest.approx([drawn.logprob for drawn in expected])
    assert CpuOps().sample(logits[:0], []) == []


def test_the_extension_refuses_what_does_not_fit() -> None:
    native = CpuOps()._native
    logits, weights, sums = np.zeros(2000, np.float32), np.zeros(2000, np.float32), np.zeros(2)
    with pytest.raises(ValueError, match=r"sums_S has shape \[3\]; expected \[2\]"):
        native.weigh(logits, 0.0, 1.0, weights, np.zeros(3))
    with pytest.raises(ValueError, match="temperature positive"):
        native.weigh(logits, 0.0, 0.0, weights, sums)
    with pytest.raises(ValueError, match=r"indices_V has shape \[3\]; expected \[2000\]"):
        native.reach(logits, 0.0, np.zeros(3, np.int64))
    drawings, tokens, best = np.zeros((1, 5)), np.zeros(1, np.int64), np.zeros(1, np.float32)
    with pytest.raises(ValueError, match=r"drawings_RM has shape \[1, 4\]; expected \[1, 5\]"):
        native.draw(logits[None], drawings[:, :4].copy(), tokens, best)
    with pytest.raises(ValueError, match=r"tokens_R has shape \[2\]; expected \[1\]"):
        native.draw(logits[None], drawings, np.zeros(2, np.int64), best)
    with pytest.raises(ValueError, match="must have columns"):
        native.draw(np.zeros((1, 0), np.float32), drawings, tokens, best)
