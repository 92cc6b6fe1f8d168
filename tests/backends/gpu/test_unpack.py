"""Four bits as eight."""

from __future__ import annotations

import pytest
import torch

from tests.backends.gpu.integer_weights import product
from twofold.backends.gpu.kernels.unpack import unpack
from twofold.backends.gpu.weights import integer_rows


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (17, 96), (33, 300), (5, 2150)])
def test_unpacked_codes_are_the_integers_of_the_inner_product(rows: int, columns: int) -> None:
    weight = product("int4", 1, rows, columns)[1]
    assert torch.equal(unpack(weight), integer_rows(weight))
