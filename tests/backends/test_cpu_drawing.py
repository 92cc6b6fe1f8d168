"""Drawing on native kernels: the passes of every instruction set, and the tokens of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from twofold.backends.cpu import machine
from twofold.backends.cpu.ops import CpuOps
from twofold.backends.cpu.passes import NativePasses
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


def test_the_extension_refuses_what_does_not_fit() -> None:
    native = CpuOps()._native
    logits, weights, sums = np.zeros(2000, np.float32), np.zeros(2000, np.float32), np.zeros(2)
    with pytest.raises(ValueError, match=r"sums_S has shape \[3\]; expected \[2\]"):
        native.weigh(logits, 0.0, 1.0, weights, np.zeros(3))
    with pytest.raises(ValueError, match="temperature positive"):
        native.weigh(logits, 0.0, 0.0, weights, sums)
    with pytest.raises(ValueError, match=r"indices_V has shape \[3\]; expected \[2000\]"):
        native.reach(logits, 0.0, np.zeros(3, np.int64))
