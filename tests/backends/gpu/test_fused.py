"""The ops by kernels, in Triton's interpreter: alone, in whole networks, with batches padded as graphs need them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import build_ops
from tests.toys import build_engine
from twofold.backends.cpu.ops import CpuOps
from twofold.backends.gpu.batches import TILE_ROWS, DeviceBatch, bucket_of, is_decode
from twofold.backends.gpu.dense import FEW_CODES
from twofold.backends.gpu.fused import KernelOps
from twofold.engine.request import SamplingParams
from twofold.ops.attention_cases import ATTENTION_CASES, AttentionCase, attend, new_cache, step_batch
from twofold.ops.cases import BUILDERS, SOFTMAX, Case, cases, error, run
from twofold.ops.reference import ReferenceOps
from twofold.ops.steps import width_of
from twofold.ops.types import Batch

ToyFolder = Callable[[str], tuple[Path, Any]]
PROMPT = [int(token) for token in np.random.default_rng(3).integers(3, 88, 18)]
BFLOAT16 = 2e-2
"""Relative to the largest value: x is rounded to bfloat16 where more than a few rows meet a bfloat16 weight."""
FLOAT8 = 8e-2
"""And to float8, three bits of fraction, where the device multiplies these. Groups of four bits take x as it is."""
LOOSER = {"bf16": BFLOAT16, "fp8": FLOAT8, "group4": 4e-2}


def kernel_ops(kv_dtype: Any = "f32") -> KernelOps:
    return KernelOps("cpu", CpuOps().packer, kv_dtype)


def tolerance(case: Case) -> float:
    formats = {form for form, _ in case.weights}
    return max([case.tolerance.relative, *(LOOSER[form] for form in formats & set(LOOSER))])


def chosen(op: str) -> list[Case]:
    """The first case of every format and regime: no row, few rows, many."""
    found: dict[tuple[str, ...], Case] = {}
    for case in cases(op):
        rows = len(case.tokens[0])
        regime = "none" if not rows else "few" if rows <= FEW_CODES else "many"
        found.setdefault((regime, *(form for form, _ in case.weights)), case)
    return list(found.values())


@pytest.mark.parametrize("op", BUILDERS)
def test_an_op_agrees_with_the_reference(op: str) -> None:
    ops = kernel_ops()
    for case in chosen(op):
        found = error(run(case, ops, torch.from_numpy), run(case, ReferenceOps()))
        assert found <= tolerance(case), f"{op} {case.name}: {found}"


@pytest.mark.parametrize("case", ATTENTION_CASES[:3], ids=str)
@pytest.mark.parametrize("step", [7, 64])
def test_attention_agrees_with_the_reference(case: Any, step: int) -> None:
    expected = attend(case, build_ops("reference", "f32"), max(case.lengths))
    found = error((attend(case, kernel_ops(), step, torch.from_numpy),), (expected,))
    assert found <= SOFTMAX.relative


@pytest.mark.parametrize(
    ("name", "dtype", "step_tokens"),
    [
        ("scout", "f32", 17),
        pytest.param("maverick", "f32", 17, marks=pytest.mark.slow),
        pytest.param("scout", "w4a8", 17, marks=pytest.mark.slow),
        ("llama3-tied", "w8a8", 17),
        pytest.param("llama3-tied", "w8a8", 5, marks=pytest.mark.slow),
    ],
)
def test_networks_give_the_logits_of_the_reference(
    name: str, dtype: str, step_tokens: int, toy_folder: ToyFolder
) -> None:
    folder, _ = toy_folder(name)
    expected = np.concatenate(list(build_engine(folder, ReferenceOps(), dtype).score(PROMPT)))
    found = np.concatenate(list(build_engine(folder, kernel_ops(), dtype, step_tokens=step_tokens).score(PROMPT)))
    assert np.abs(found - expected).max() / np.abs(expected).max() < (1e-4 if dtype == "f32" else 0.05)


def test_pieces_of_a_prompt_of_which_no_row_is_wanted(toy_folder: ToyFolder) -> None:
    folder, _ = toy_folder("scout")
    expected = np.concatenate(list(build_engine(folder, ReferenceOps(), "bf16").score(PROMPT)))[-1:]
    ops = kernel_ops()
    engine = build_engine(folder, ops, "bf16", step_tokens=7)
    forward, found = engine.forward, []
    engine.forward = lambda *given: found.append(forward(*given)) or found[-1]
    engine.add(PROMPT, SamplingParams(max_tokens=1))
    while not engine.is_idle:
        engine.step()
    assert [len(logits_RV) for logits_RV in found] == [0, 0, 1]
    assert np.abs(ops.download(found[-1]) - expected).max() / np.abs(expected).max() < 0.05


class PaddedOps(KernelOps):
    """Decoding batches are padded into their slots, as on a device with graphs."""

    def upload(self, batch: Batch) -> DeviceBatch:
        if not is_decode(batch):
            return super().upload(batch)
        placed = self._slots.place(batch)
        self._all_rows = placed.rows_R
        return placed


class AheadOps(PaddedOps):
    """And steps follow one another at once."""

    runs_ahead = True


def test_padding_rows_and_steps_behind_others_change_nothing(toy_folder: ToyFolder) -> None:
    folder, _ = toy_folder("llama3-tied")
    params = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
    answers = []
    for kind in (KernelOps, PaddedOps, AheadOps):
        engine = build_engine(folder, kind("cpu", CpuOps().packer, "f32"))
        forward = engine.forward
        engine.forward = lambda ops, batch, cache, forward=forward: forward(ops, batch, cache)[: batch.rows]
        found: dict[int, list[int]] = {engine.add(PROMPT[:n], params).id: [] for n in (2, 3, 3)}
        while not engine.is_idle:
            for event in engine.step():
                found[event.request_id].append(event.drawn.token)
        answers.append(list(found.values()))
    assert answers[0] == answers[1] == answers[2]


def test_a_decoding_row_has_the_same_bits_beside_a_prompt_in_tiles() -> None:
    case = AttentionCase(lengths=(TILE_ROWS + 2, 9), heads=2, kv_heads=1, size=16)
    ops, (q_THK, k_TGK, v_TGK) = kernel_ops("bf16"), case.inputs()
    cache = new_cache(case, ops)

    def step(*parts: tuple[int, int, int]) -> np.ndarray:
        rows = np.concatenate([np.arange(first, last) + sequence * case.lengths[0] for sequence, first, last in parts])
        batch = ops.upload(step_batch(case, list(parts)))
        given = (torch.from_numpy(x[rows]) for x in (q_THK, k_TGK, v_TGK))
        return ops.download(ops.attend(*given, cache, batch, batch.global_pages, None))

    step((1, 0, 8))
    alone = step((1, 8, 9))
    together = step((0, 0, TILE_ROWS + 2), (1, 8, 9))
    assert np.array_equal(together[-1:], alone)
    expected = attend(case, ReferenceOps("bf16"), 40)
    assert error((together[:-1],), (expected[: TILE_ROWS + 2],)) <= SOFTMAX.relative


def test_buckets_and_widths_hold_what_they_are_for() -> None:
    for rows in range(1, 300):
        assert rows <= bucket_of(rows) <= max(4, 1.5 * rows + 16)
        assert rows <= width_of(rows)
