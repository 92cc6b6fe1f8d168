"""The price of the machine: given as a number, or looked up in a book."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from twofold.cli.watching_options import read_price
from twofold.errors import SettingsError

NOTHING: dict[str, Any] = {"price_per_hour": None, "currency": None, "prices": None, "price_class": None}
BOOK = 'currency = "EUR"\n[machines.cellar]\nper_hour = 0.5\nsource = "bought"\nnoted = 2026-01-31\n'


def price(**options: Any) -> tuple[float, str] | None:
    found = read_price({**NOTHING, **options})
    return (found.per_hour, found.currency) if found else None


def test_without_a_price_there_is_none() -> None:
    assert price() is None


def test_a_price_is_a_number_or_a_machine_of_a_book(tmp_path: Path) -> None:
    book = tmp_path / "prices.toml"
    book.write_text(BOOK)
    assert price(price_per_hour=0.35) == (0.35, "USD")
    assert price(price_per_hour=0.35, currency="EUR") == (0.35, "EUR")
    assert price(prices=book, price_class="cellar") == (0.5, "EUR")
    assert price(price_class="aws-c7i-4xlarge") == (0.714, "USD")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"price_per_hour": 0.35, "price_class": "cellar"}, "give one"),
        ({"price_per_hour": -1.0}, "above 0"),
        ({"currency": "EUR"}, "belongs to --price-per-hour"),
        ({"prices": Path("prices.toml")}, "needs --price-class"),
        ({"price_class": "aws-c7i-4xlarg"}, "did you mean aws-c7i-4xlarge"),
    ],
)
def test_what_is_contradictory_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        price(**options)
