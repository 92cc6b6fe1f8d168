"""The catalogue of machines to plan for: data sheets in a TOML file that users edit (machines.toml)."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from twofold.bench.prices import MOST_BYTES, Noted, check_names, nearest, table
from twofold.bench.roofline import Limits
from twofold.errors import SettingsError

STATES: Mapping[str, str] = {
    "works": "runs today, tested on this kind of CPU",
    "tiles imitated": "runs today; its AMX tiles tested by imitation only",
    "emulated": "kernels tested in emulation, not on such a device yet",
    "no kernels": "no kernels of ours yet",
}
"""Whether twofold runs on a kind of machine, as docs/hardware.md has it."""
SHARES = ("sustained_read", "sustained_int8", "sustained_float", "usable_memory")
KIND = (*SHARES, "unsure", "runs", "source", "noted")
RATES = ("memory_bytes", "read_bytes_per_s", "bf16_ops_per_s", "power_w")
OTHER_RATES = ("int8_ops_per_s", "fp8_ops_per_s", "f32_ops_per_s")
MACHINE = ("kind", *RATES, "source", "noted")
MOST_COUNT = 1024


@dataclass(frozen=True, kw_only=True)
class Kind(Noted):
    """What machines of a kind have in common.

    sustained_*: share of a data sheet's figure that can be reached at all; usable_memory: share that a model may take;
    unsure: factor by which a prediction may be wrong beyond what was measured; runs: a key of STATES; layer_us:
    microseconds each layer costs beside its work, None where it is as on this project's machines.
    """

    sustained_read: float
    sustained_int8: float
    sustained_float: float
    usable_memory: float
    unsure: float
    runs: str
    layer_us: float | None = None


@dataclass(frozen=True, kw_only=True)
class Sheet(Noted):
    """One machine's data sheet, of `count` chips that work as one. price: its name in the price book, for each chip.

    Operations are dense; f32_ops_per_s is given where our products of bfloat16 weights run in float32 (CPUs).
    """

    name: str
    kind: Kind
    memory_bytes: float
    read_bytes_per_s: float
    bf16_ops_per_s: float
    power_w: float
    int8_ops_per_s: float | None = None
    fp8_ops_per_s: float | None = None
    f32_ops_per_s: float | None = None
    price: str | None = None
    count: int = 1

    @property
    def usable_bytes(self) -> float:
        """Memory a model may take."""
        return self.memory_bytes * self.count * self.kind.usable_memory

    @property
    def watts(self) -> float:
        """Power of all chips."""
        return self.power_w * self.count

    @property
    def limits(self) -> Limits:
        """What can be reached of the sheet. What has no rate of its own runs as floats."""
        floats = (self.f32_ops_per_s or self.bf16_ops_per_s) * self.count * self.kind.sustained_float
        fp8 = self.fp8_ops_per_s
        int8 = self.int8_ops_per_s * self.count * self.kind.sustained_int8 if self.int8_ops_per_s else floats
        return Limits(
            read_bytes_per_s=self.read_bytes_per_s * self.count * self.kind.sustained_read,
            int8_ops_per_s=int8,
            int4_ops_per_s=int8,
            float_ops_per_s=floats,
            fp8_ops_per_s=fp8 * self.count * self.kind.sustained_int8 if fp8 else floats,
        )


def own_catalogue() -> Mapping[str, Sheet]:
    """The catalogue that ships with twofold."""
    return parse((resources.files("twofold.bench") / "machines.toml").read_text("utf-8"), "machines.toml")


def read_catalogue(path: Path) -> Mapping[str, Sheet]:
    """A user's catalogue. Raises SettingsError naming the file, the entry and the field at fault."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SettingsError(f"{path} is larger than {MOST_BYTES} bytes; a catalogue of machines was expected")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the catalogue {path} cannot be read: {error}") from error
    return parse(text, str(path))


def find_machine(catalogue: Mapping[str, Sheet], name: str) -> Sheet:
    """One machine. Raises SettingsError that names the nearest one."""
    if name not in catalogue:
        raise SettingsError(
            f"the catalogue has no machine {name!r}; {nearest(name, catalogue)}it has {', '.join(catalogue)}, "
            "and this, the machine at hand"
        )
    return catalogue[name]


def parse(text: str, where: str) -> dict[str, Sheet]:
    """Machines by name from their TOML; `where` names it in errors. Raises SettingsError."""
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{where} is no TOML: {error}") from error
    check_names(raw, ("kinds", "machines"), where)
    kinds = {name: parse_kind(item, f"{where}: kinds.{name}") for name, item in table(raw, "kinds", where).items()}
    return {
        name: parse_machine(name, item, kinds, f"{where}: machines.{name}")
        for name, item in table(raw, "machines", where).items()
    }


def parse_kind(raw: Any, where: str) -> Kind:
    """One kind, every field checked."""
    found = fields(raw, KIND, ("layer_us",), where)
    for name in SHARES:
        if not 0 < found[name] <= 1:
            raise SettingsError(f"{where}: {name} is {found[name]!r}; a share above 0, at most 1, was expected")
    if found["unsure"] < 1:
        raise SettingsError(f"{where}: unsure is {found['unsure']!r}; a factor of at least 1 was expected")
    if found["runs"] not in STATES:
        raise SettingsError(f"{where}: runs is {found['runs']!r}; one of {', '.join(STATES)} was expected")
    return Kind(**found)


def parse_machine(name: str, raw: Any, kinds: Mapping[str, Kind], where: str) -> Sheet:
    """One machine, every field checked."""
    found = fields(raw, MACHINE, (*OTHER_RATES, "price", "count"), where)
    if found["kind"] not in kinds:
        raise SettingsError(
            f"{where}: kind is {found['kind']!r}; {nearest(str(found['kind']), kinds)}one of {', '.join(kinds)} was "
            "expected"
        )
    count = found.get("count", 1)
    if count != int(count) or not 1 <= count <= MOST_COUNT:
        raise SettingsError(f"{where}: count is {count!r}; a whole number from 1 to {MOST_COUNT} was expected")
    return Sheet(**{**found, "name": name, "kind": kinds[found["kind"]], "count": int(count)})


def fields(raw: Any, needed: Collection[str], others: Collection[str], where: str) -> dict[str, Any]:
    """The fields of an entry: all that are needed, none that is unknown; numbers above 0, texts and a date."""
    if not isinstance(raw, dict):
        raise SettingsError(f"{where} is {raw!r}; a table with {', '.join(needed)} was expected")
    check_names(raw, (*needed, *others), where)
    for name in needed:
        if name not in raw:
            raise SettingsError(f"{where} has no {name}; add it")
    for name, value in raw.items():
        if name in ("kind", "runs", "price", "source"):
            if not isinstance(value, str) or not value.strip():
                raise SettingsError(f"{where}: {name} is {value!r}; a text was expected")
        elif name == "noted":
            if not isinstance(value, date) or isinstance(value, datetime):
                raise SettingsError(f"{where}: noted is {value!r}; a date was expected, like 2025-06-30 without quotes")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise SettingsError(f"{where}: {name} is {value!r}; a number above 0 was expected")
    return dict(raw)
