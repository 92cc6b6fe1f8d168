"""What our kernels reach of a machine's limits, as measured (efficiency.toml), and how far predictions were off."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, get_args

from twofold.bench.roofline import Family, Shares
from twofold.errors import SettingsError

FIGURES = ("decode", "depth", "several", "prefill", "memory")
"""What is predicted: decode of one sequence, the same at depth, of several sequences, reading a prompt, memory."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Measured over predicted, 10th and 90th percentile of so many measurements."""

    low: float
    high: float
    count: int

    def widened(self, factor: float) -> Spread:
        """The same where more is unknown."""
        return Spread(low=self.low / factor, high=self.high * factor, count=self.count)


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Shares of the limits, and the spread of each figure around its prediction. sources: the result files behind."""

    shares: Shares
    spreads: Mapping[str, Spread]
    sources: tuple[str, ...]


def own_efficiency() -> Efficiency:
    """What was measured for this version of the kernels."""
    return parse((resources.files("twofold.bench") / "efficiency.toml").read_text("utf-8"))


def parse(text: str) -> Efficiency:
    """Read what `to_toml` wrote; SettingsError for anything else."""
    try:
        raw = tomllib.loads(text)
        read, few, many = ({key: float(raw[name][key]) for key in get_args(Family)} for name in ("read", "few", "many"))
        other = {name: float(raw["other"][name]) for name in ("kv", "attention", "layer_s", "working_bytes")}
        spreads = {name: Spread(**raw["spread"][name]) for name in FIGURES}
        shares = Shares(read=read, few=few, many=many, **other)
        return Efficiency(shares=shares, spreads=spreads, sources=tuple(raw["sources"]))
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise SettingsError(
            f"efficiency.toml is damaged ({error}); python -m benchmarks.calibrate writes it anew"
        ) from error


def to_toml(efficiency: Efficiency) -> str:
    """The file, as TOML."""
    shares = efficiency.shares
    lines = [
        "# Written by python -m benchmarks.calibrate; not to be edited. twofold/bench/roofline.py says what each is.",
        f"sources = [{', '.join(map(repr, efficiency.sources))}]".replace("'", '"'),
    ]
    tables: dict[str, Mapping[Any, float]] = {"read": shares.read, "few": shares.few, "many": shares.many}
    tables["other"] = {
        "kv": shares.kv,
        "attention": shares.attention,
        "layer_s": shares.layer_s,
        "working_bytes": shares.working_bytes,
    }
    for name, values in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {value:.4g}" for key, value in values.items())]
    for name, spread in efficiency.spreads.items():
        lines += ["", f"[spread.{name}]", f"low = {spread.low:.3f}", f"high = {spread.high:.3f}"]
        lines.append(f"count = {spread.count}")
    return "\n".join(lines) + "\n"
