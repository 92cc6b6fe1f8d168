"""What a mixed model may take, as users write it: 4.3bit, 60GB, kl=0.02."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from twofold.errors import SettingsError

UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
WRITTEN = re.compile(r"(?:(?P<kl>kl)\s*=\s*)?(?P<amount>[0-9.]+(?:e[+-]?[0-9]+)?)\s*(?P<unit>[a-z]*)")


@dataclass(frozen=True)
class Budget:
    """A limit: average bits per weight, bytes of all tensors that are written, nats of KL divergence, or as w4a8."""

    kind: Literal["bit", "bytes", "kl", "w4a8"]
    amount: float
    text: str


def parse_budget(text: str | None) -> Budget:
    """A budget as written by a user; GB is 10^9 bytes, GiB 2^30. Raises SettingsError for anything else.

    None is the size of w4a8.
    """
    if text is None:
        return Budget("w4a8", 0.0, "as many bytes as w4a8")
    found = WRITTEN.fullmatch(text.strip().lower())
    if found is not None:
        amount, unit = number(found["amount"]), found["unit"]
        if amount > 0 and found["kl"] and not unit:
            return Budget("kl", amount, text)
        if amount > 0 and not found["kl"] and unit in ("bit", "bits"):
            return Budget("bit", amount, text)
        if amount > 0 and not found["kl"] and unit in UNITS:
            return Budget("bytes", amount * UNITS[unit], text)
    raise SettingsError(
        f"budget is {text!r}; bits per weight (4.3bit), bytes of weights (60GB, 56GiB) or a KL divergence (kl=0.02) "
        "was expected, above 0"
    )


def number(text: str) -> float:
    """A finite number, 0 for what is none."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if isfinite(value) else 0.0
