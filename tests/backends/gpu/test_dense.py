"""Which kernel multiplies with a weight that is not routed, and that all of them give the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.backends.gpu.integer_weights import INTEGERS, Given, product
from twofold.backends.gpu import dense
from twofold.backends.gpu.dense import FEW_CODES, integer_product, kind_of
from twofold.backends.gpu.kernels import integer_several
from twofold.ops.packed import Format


@pytest.mark.parametrize(
    ("rows", "is_four", "has_several", "kind"),
    [
        (1, True, True, "few"),
        (2, False, True, "few"),
        (3, True, True, "several"),
        (16, False, True, "several"),
        (17, False, True, "many"),
        (32, True, True, "several"),
        (33, True, True, "many"),
        (3, True, False, "few"),
        (FEW_CODES, False, False, "few"),
        (FEW_CODES + 1, True, False, "many"),
    ],
)
def test_rows_decide_which_kernel_it_is(rows: int, is_four: bool, has_several: bool, kind: str) -> None:
    assert kind_of(rows, is_four, has_several) == kind


@pytest.mark.parametrize("form", INTEGERS)
def test_what_is_added_is_added_by_every_kernel(form: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    for tokens, has_several in ((2, True), (5, True), (5, False), (9, False)):
        monkeypatch.setattr(integer_several, "has_kernel", lambda _device, has=has_several: has)
        codes, weight, wanted = product(form, tokens, 6, 96)
        add_TN = torch.linspace(-1, 1, wanted.size).reshape(wanted.shape)
        assert np.array_equal(integer_product(Given(codes), weight, add_TN).numpy(), wanted + add_TN.numpy())
        assert np.array_equal(dense.product(Given(codes), weight).numpy(), wanted)
