"""Cosines, sines and temperatures of a pass, against float64 and against plain torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twofold.backends.cpu.ops import CpuOps
from twofold.backends.gpu import ops as plain
from twofold.backends.gpu.kernels.angles import angles, factors
from twofold.ops.types import Rope, Temperature

POSITIONS = np.concatenate([np.arange(70), [8190, 8191, 8192, 131_071, 1_048_575, 9_999_999, 10_000_000]]).astype(
    np.int32
)
ULP = 2.0**-24
"""Half the distance of numbers just below one: what a rounded result may be off."""


@pytest.mark.parametrize(("head_size", "theta"), [(128, 500_000.0), (96, 10_000.0), (2, 10_000.0)])
def test_cosines_and_sines_are_those_of_the_product_in_float32(head_size: int, theta: float) -> None:
    setting = Rope(head_size=head_size, theta=theta, interleaved=True)
    ops, positions_T = plain.TorchOps("cpu", CpuOps().packer), torch.from_numpy(POSITIONS)
    product_TK2 = (POSITIONS.astype(np.float32)[:, None] * ops.frequencies(setting).numpy()[None]).astype(np.float64)
    found, torch_found = angles(positions_T, ops.frequencies(setting)), ops.angles(positions_T, setting)
    for own, theirs, exact in zip(found, torch_found, (np.cos(product_TK2), np.sin(product_TK2)), strict=True):
        assert np.abs(own.numpy() - exact).max() <= 2 * ULP
        assert (own - theirs).abs().max() <= 2 * ULP


@pytest.mark.parametrize("setting", [Temperature(floor=8192, scale=0.1), Temperature(floor=3000, scale=0.25)], ids=str)
def test_temperatures_step_where_they_should(setting: Temperature) -> None:
    positions = np.concatenate([POSITIONS, [2998, 2999, 3000, 8_999_998, 8_999_999, 9_000_000]]).astype(np.int32)
    exact_T = 1 + setting.scale * np.log1p((positions.astype(np.int64) + 1) // setting.floor)
    found_T = factors(torch.from_numpy(positions), setting)
    assert np.abs(found_T.numpy() / exact_T - 1).max() <= 2 * ULP
    assert (found_T / plain.factors(torch.from_numpy(positions), setting) - 1).abs().max() <= 4 * ULP


def test_one_position_and_none_are_enough() -> None:
    frequencies = torch.tensor([1.0, 0.5])
    cosine_TK2, sine_TK2 = angles(torch.tensor([3], dtype=torch.int32), frequencies)
    assert torch.allclose(cosine_TK2, (3 * frequencies).cos()[None])
    assert torch.allclose(sine_TK2, (3 * frequencies).sin()[None])
    none = torch.empty(0, dtype=torch.int32)
    assert [part.shape for part in angles(none, frequencies)] == [(0, 2), (0, 2)]
    assert factors(none, Temperature(floor=8192, scale=0.1)).shape == (0,)
