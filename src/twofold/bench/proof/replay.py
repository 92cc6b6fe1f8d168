"""A proof beside an earlier one of the same command: whether both say the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from twofold.bench.proof.model import METRICS, Interval, Proof


def beside(old: Mapping[str, float], new: Interval) -> str:
    """Two ratios in words. What was measured once has no interval, and then nothing is said of a difference."""
    if old["low"] == old["high"] or new.low == new.high:
        return f"{old['median']:.2f}x before, {new.median:.2f}x now (one measurement each)"
    apart = new.low > old["high"] or new.high < old["low"]
    return (
        f"{old['median']:.2f}x before [{old['low']:.2f}, {old['high']:.2f}], {new.median:.2f}x now "
        f"[{new.low:.2f}, {new.high:.2f}]: {'different' if apart else 'the same'}"
    )


def compare(before: Mapping[str, Any], now: Proof) -> Iterator[str]:
    """A sentence per ratio that both have, and one for each thing that changed: machine, versions, weights."""
    for name, ratio in now.ratios.items():
        old = before["ratios"].get(name)
        if old:
            yield f"{METRICS[name].title}: {beside(old, ratio)}"
    if before["machine"].get("cpu") != now.machine.get("cpu"):
        yield f"another machine: {before['machine'].get('cpu')} before, {now.machine.get('cpu')} now"
    for role, contender in now.contenders.items():
        old = before["contenders"].get(role) or {}
        for part in ("version", "weights", "model"):
            if old.get(part) != getattr(contender, part):
                yield f"{role}: another {part} ({old.get(part)} before, {getattr(contender, part)} now)"
