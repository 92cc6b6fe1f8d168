"""Budgets as users write them."""

from __future__ import annotations

import pytest

from twofold.errors import SettingsError
from twofold.quant.budget import parse_budget


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("4.3bit", "bit", 4.3),
        (" 5 bits ", "bit", 5),
        ("60GB", "bytes", 60e9),
        ("1.5gib", "bytes", 1.5 * 2**30),
        ("800 MB", "bytes", 8e8),
        ("kl=0.02", "kl", 0.02),
        ("KL = 1e-3", "kl", 1e-3),
    ],
)
def test_bits_bytes_and_divergences_are_read(text: str, kind: str, amount: float) -> None:
    found = parse_budget(text)
    assert (found.kind, found.amount, found.text) == (kind, pytest.approx(amount), text)


def test_without_one_it_is_the_size_of_w4a8() -> None:
    assert parse_budget(None).kind == "w4a8"


@pytest.mark.parametrize(
    "text", ["", "4.3", "bit", "-4bit", "0bit", "60", "60XB", "kl=", "kl=-1", "kl=2bit", "1.2.3GB", "infGB", "nanbit",
             "1e999bit", "4.3bit or so", "4,3bit"],
)  # fmt: skip
def test_anything_else_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(SettingsError, match=r"4\.3bit"):
        parse_budget(text)
