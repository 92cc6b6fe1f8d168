"""The price book: what machines, power and other people's APIs cost, in a TOML file that users edit (prices.toml)."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from twofold.errors import SettingsError

MOST_BYTES = 2**20
ENTRY = ("source", "noted")
PARTS = ("currency", "power", "machines", "hosted")


@dataclass(frozen=True, kw_only=True)
class Noted:
    """Where a price is from, and the day it was written down."""

    source: str
    noted: date


@dataclass(frozen=True, kw_only=True)
class Power(Noted):
    """Electricity."""

    per_kwh: float


@dataclass(frozen=True, kw_only=True)
class Machine(Noted):
    """A whole machine, rented or owned."""

    per_hour: float


@dataclass(frozen=True, kw_only=True)
class Hosted(Noted):
    """Somebody else's API, per million tokens."""

    input_per_million: float
    output_per_million: float


@dataclass(frozen=True, kw_only=True)
class PriceBook:
    """Prices in one currency, by name."""

    currency: str
    machines: Mapping[str, Machine]
    hosted: Mapping[str, Hosted]
    power: Power | None = None

    def machine(self, name: str) -> Machine:
        """One machine. Raises SettingsError that names the nearest one."""
        if name not in self.machines:
            raise SettingsError(
                f"the price book has no machine {name!r}; {nearest(name, self.machines)}it has "
                f"{', '.join(self.machines) or 'none'}"
            )
        return self.machines[name]


def own_book() -> PriceBook:
    """The book that ships with twofold: public list prices of some day, to check before use."""
    return parse((resources.files("twofold.bench") / "prices.toml").read_text("utf-8"), "prices.toml")


def read_book(path: Path) -> PriceBook:
    """A user's book. Raises SettingsError naming the file, the entry and the field at fault."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SettingsError(f"{path} is larger than {MOST_BYTES} bytes; a price book was expected")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the price book {path} cannot be read: {error}") from error
    return parse(text, str(path))


def parse(text: str, where: str) -> PriceBook:
    """A book from its TOML; `where` names it in errors. Raises SettingsError."""
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{where} is no TOML: {error}") from error
    check_names(raw, PARTS, where)
    currency = raw.get("currency")
    if not isinstance(currency, str) or not re.fullmatch(r"[A-Z]{3}", currency):
        raise SettingsError(f"{where}: currency is {currency!r}; three capital letters were expected, like USD")
    machines = {
        name: Machine(**entry(item, ("per_hour",), f"{where}: machines.{name}"))
        for name, item in table(raw, "machines", where).items()
    }
    hosted = {
        name: Hosted(**entry(item, ("input_per_million", "output_per_million"), f"{where}: hosted.{name}"))
        for name, item in table(raw, "hosted", where).items()
    }
    power = Power(**entry(raw["power"], ("per_kwh",), f"{where}: power")) if "power" in raw else None
    return PriceBook(currency=currency, machines=machines, hosted=hosted, power=power)


def table(raw: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """A part of the file that holds named entries; empty when it is not there."""
    found = raw.get(name, {})
    if not isinstance(found, dict):
        raise SettingsError(f"{where}: {name} is {found!r}; entries like [{name}.NAME] were expected")
    return found


def entry(raw: Any, prices: Collection[str], where: str) -> dict[str, Any]:
    """The fields of one entry: its prices, source and noted, all of them and no others."""
    if not isinstance(raw, dict):
        raise SettingsError(f"{where} is {raw!r}; a table with {', '.join((*prices, *ENTRY))} was expected")
    check_names(raw, (*prices, *ENTRY), where)
    for name in (*prices, *ENTRY):
        if name not in raw:
            raise SettingsError(f"{where} has no {name}; add it")
    for name in prices:
        value = raw[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise SettingsError(f"{where}: {name} is {value!r}; a number above 0 was expected")
    if not isinstance(raw["source"], str) or not raw["source"].strip():
        raise SettingsError(f"{where}: source is {raw['source']!r}; a text saying where the price is from was expected")
    if not isinstance(raw["noted"], date) or isinstance(raw["noted"], datetime):
        raise SettingsError(f"{where}: noted is {raw['noted']!r}; a date was expected, like 2025-06-30 without quotes")
    return {**raw, **{name: float(raw[name]) for name in prices}}


def check_names(raw: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuse what is not known, naming what it is nearest to."""
    for name in raw:
        if name not in known:
            raise SettingsError(f"{where}: {name!r} is not known; {nearest(name, known)}expected {', '.join(known)}")


def nearest(name: str, known: Collection[str]) -> str:
    """ "did you mean ..." or nothing."""
    found = difflib.get_close_matches(name, known, 1)
    return f"did you mean {found[0]}? " if found else ""
