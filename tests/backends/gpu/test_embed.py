"""Rows of four-bit tables."""

from __future__ import annotations

import pytest
import torch

from twofold.backends.cpu.ops import CpuOps
from twofold.backends.gpu.kernels.embed import embed
from twofold.backends.gpu.weights import Int4Weight, RefinedWeight, decode, to_device
from twofold.ops.cases import generator, normal, pack


@pytest.mark.parametrize("form", ["int4", "refined"])
@pytest.mark.parametrize("columns", [1, 40, 64, 1088])
def test_rows_have_the_bits_of_the_whole_table_decoded(form: str, columns: int) -> None:
    table = to_device(pack(CpuOps(), form, normal(generator(columns), 35, columns)), "cpu")  # type: ignore[arg-type]
    assert isinstance(table, Int4Weight | RefinedWeight)
    tokens = torch.tensor([34, 0, 7, 7], dtype=torch.int32)
    assert torch.equal(embed(table, tokens), decode(table)[tokens.long()])
    assert embed(table, tokens[:0]).shape == (0, columns)
