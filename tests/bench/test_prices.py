"""The price book: what ships, and what is said of a file that is wrong."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from twofold.bench.prices import own_book, parse, read_book
from twofold.errors import SettingsError

BOOK = """
currency = "EUR"
[power]
per_kwh = 0.21
source = "our bill"
noted = 2026-01-31
[machines.cellar]
per_hour = 1
source = "bought for 8760 a year"
noted = 2026-01-31
"""


def test_the_book_that_ships_says_of_every_price_where_and_when_and_to_check_it() -> None:
    book = own_book()
    assert book.power is not None
    for item in (*book.machines.values(), *book.hosted.values(), book.power):
        assert "check before use" in item.source
        assert item.noted.year >= 2025


def test_a_users_book_is_read(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(BOOK)
    book = read_book(path)
    assert (book.currency, book.machine("cellar").per_hour, book.machine("cellar").noted) == (
        "EUR", 1.0, date(2026, 1, 31),
    )  # fmt: skip
    assert book.power is not None
    assert book.power.per_kwh == 0.21
    assert not book.hosted


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("per_hour = 1\n", "per_hour = -1\n", "machines.cellar: per_hour is -1; a number above 0"),
        ("per_hour = 1\n", "per_hour = nan\n", "per_hour is nan"),
        ("per_hour = 1\n", "per_hour = true\n", "per_hour is True"),
        ("per_hour = 1\n", 'per_hour = "1"\n', "per_hour is '1'"),
        ("per_hour = 1\n", "per_houre = 1\n", "'per_houre' is not known; did you mean per_hour?"),
        ("per_hour = 1\n", "", "machines.cellar has no per_hour"),
        ('currency = "EUR"', 'currency = "euro"', "currency is 'euro'"),
        ('currency = "EUR"', "", "currency is None"),
        ("[power]", "[powers]", "'powers' is not known; did you mean power?"),
        ("[machines.cellar]", "[machine.cellar]", "did you mean machines?"),
        ("[machines.cellar]", "[machines]", "machines.per_hour is 1; a table"),
        ('source = "our bill"', 'source = " "', "power: source is ' '"),
        ("noted = 2026-01-31\n[machines", 'noted = "2026-01-31"\n[machines', "noted is '2026-01-31'; a date"),
        ("noted = 2026-01-31\n[machines", "noted = 2026-01-31T10:00:00\n[machines", "a date was expected"),
        ('currency = "EUR"', "currency = ", "is no TOML"),
    ],
)
def test_what_is_wrong_in_a_book_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in BOOK
    path = tmp_path / "prices.toml"
    path.write_text(BOOK.replace(old, new, 1))
    with pytest.raises(SettingsError) as error:
        read_book(path)
    assert str(path) in str(error.value)
    assert told in str(error.value)


def test_a_machine_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean cellar"):
        parse(BOOK, "here").machine("celler")


def test_a_file_that_is_no_book_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_book(tmp_path / "none.toml")
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_book(path)
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(SettingsError, match="larger than"):
        read_book(path)
