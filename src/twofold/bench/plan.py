"""What a network would need and do on a machine in a scheme, whether that meets a wish, and what it would cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from twofold.bench.catalogue import STATES, Sheet
from twofold.bench.efficiency import Efficiency, Spread
from twofold.bench.prices import PriceBook
from twofold.bench.roofline import (
    Limits,
    Network,
    Shares,
    cache_pool_bytes,
    decode_seconds,
    memory_bytes,
    prefill_seconds,
    working,
)
from twofold.ops.types import KvDtype

HOURS_PER_MONTH = 730.0
MOST_USERS = 1024
LOADER_BYTES = 256 * 2**20
"""What the loader wants free beside weights and cache (twofold.loading); a plan that fits must load."""
USUAL_RATE = 10.0
"""Tokens per second of one user that count as served where nothing is said: faster than most people read."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a user wants; None where nothing is said.

    rate_tokens_per_s: of each user while all are answered; per_month, per_million: most that may be paid, the latter
    for a million tokens of output.
    """

    users: int = 1
    context: int = 8192
    kv_dtype: KvDtype = "bf16"
    rate_tokens_per_s: float | None = None
    per_month: float | None = None
    per_million: float | None = None

    @property
    def rate(self) -> float:
        """The rate a user must get to count as served."""
        return USUAL_RATE if self.rate_tokens_per_s is None else self.rate_tokens_per_s


@dataclass(frozen=True, kw_only=True)
class Place:
    """A machine to plan for. unsure: factor by which predictions may be wrong beyond what was measured here."""

    name: str
    limits: Limits
    memory_bytes: float
    shares: Shares
    unsure: float
    state: str
    per_hour: float | None
    price_note: str
    is_measured: bool = False
    runs: bool = True


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A prediction with its range."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Something a wish lacks: what, in words, and how many times as much is needed (None: not known)."""

    kind: Literal["price", "speed", "memory"]
    text: str
    times: float | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One network in one scheme on one machine.

    memory_bytes: for one user, or as many as are wished for where they fit; users: the most that are served at the
    wished rate and context, 0 for none; total_tokens_per_s: of all of them (of one where none is served);
    machines: so many serve the wish. missing: why the wish is not met; empty where it is.
    """

    place: Place
    scheme: str
    memory_bytes: float
    fits: bool
    users: int
    decode: Figure
    prefill: Figure
    total_tokens_per_s: Figure
    machines: int | None
    per_month: float | None
    input_per_million: float | None
    output_per_million: float | None
    missing: tuple[Missing, ...]

    @property
    def meets(self) -> bool:
        """Whether the wish is met."""
        return not self.missing

    @property
    def why(self) -> str:
        """What is missing, in words."""
        return "; ".join(f"{item.kind}: {item.text}" for item in self.missing)


def place_of(sheet: Sheet, efficiency: Efficiency, book: PriceBook) -> Place:
    """A machine of the catalogue, with its price: of the book, else of its electricity where the book knows that."""
    per_hour, note = None, "no price"
    if sheet.price is not None:
        per_hour, note = book.machine(sheet.price).per_hour * sheet.count, "rent"
    elif book.power is not None:
        per_hour, note = sheet.watts / 1000 * book.power.per_kwh, "electricity only"
    shares, layer_us = efficiency.shares, sheet.kind.layer_us
    if layer_us is not None:
        shares = Shares(**{**vars(shares), "layer_s": layer_us / 1e6})
    return Place(
        name=sheet.name,
        limits=sheet.limits,
        memory_bytes=sheet.usable_bytes,
        shares=shares,
        unsure=sheet.kind.unsure,
        state=STATES[sheet.kind.runs],
        per_hour=per_hour,
        price_note=note,
        runs=sheet.kind.runs != "no kernels",
    )


def evaluate(network: Network, scheme: str, place: Place, efficiency: Efficiency, wish: Wish) -> Outcome:
    """Predict, price and judge."""
    needed = needed_bytes(network, place.shares, 1, wish)
    fits = needed <= place.memory_bytes
    users = served_users(network, place, wish) if fits else 0
    shown = max(1, users if wish.users == 1 else min(users, wish.users))
    alone = decode_rate(network, place, 1, wish)
    together = shown * decode_rate(network, place, shown, wish)
    prefill = wish.context / prefill_seconds(network, place.limits, place.shares, wish.context)
    machines = math.ceil(wish.users / users) if users else None
    hourly = place.per_hour if fits else None
    output = hourly / (together * 3600) * 1e6 if hourly else None
    per_month = machines * hourly * HOURS_PER_MONTH if machines and hourly else None
    spreads = efficiency.spreads
    return Outcome(
        place=place,
        scheme=scheme,
        memory_bytes=memory_bytes(network, place.shares, min(wish.users, shown), wish.context, wish.kv_dtype),
        fits=fits,
        users=users,
        decode=ranged(alone, spreads["depth" if wish.context >= 1024 else "decode"], place),
        prefill=ranged(prefill, spreads["prefill"], place),
        total_tokens_per_s=ranged(together, spreads["several"], place),
        machines=machines,
        per_month=per_month,
        input_per_million=hourly / (prefill * 3600) * 1e6 if hourly else None,
        output_per_million=output,
        missing=tuple(find_missing(needed, place, alone if fits and not users else None, (per_month, output), wish)),
    )


def find_missing(
    needed: float, place: Place, too_slow: float | None, costs: tuple[float | None, float | None], wish: Wish
) -> Iterator[Missing]:
    """What a wish lacks. needed: bytes; too_slow: one user's rate where it is; costs: of a month, of 1M tokens."""
    has = place.memory_bytes
    if needed > has:
        text = f"needs {gigabytes(needed)}, {gigabytes(has)} usable, {gigabytes(needed - has)} short"
        yield Missing(kind="memory", text=text, times=needed / has)
    elif too_slow is not None:
        got = f"{too_slow:,.0f}" if too_slow >= 100 else f"{too_slow:.2g}"
        text = f"one user gets {got} of {wish.rate:g} tokens/s, {wish.rate / too_slow:,.1f} times too slow"
        yield Missing(kind="speed", text=text, times=wish.rate / too_slow)
    else:
        limits = (wish.per_month, wish.per_million)
        for cost, limit, what in zip(costs, limits, ("a month", "1M output tokens"), strict=True):
            if limit is not None and cost is None:
                yield Missing(kind="price", text=f"none known, and {what} has a budget", times=None)
            elif limit is not None and cost is not None and cost > limit:
                text = f"{cost:,.2f} for {what}, {cost - limit:,.2f} above the budget of {limit:,.2f}"
                yield Missing(kind="price", text=text, times=cost / limit)


def gigabytes(count: float) -> str:
    """Bytes, for people."""
    return f"{count / 1e9:,.1f} GB"


def served_users(network: Network, place: Place, wish: Wish) -> int:
    """Most users that memory holds and that each get the wished rate; 0 when not even one does."""

    def is_served(users: int) -> bool:
        if needed_bytes(network, place.shares, users, wish) > place.memory_bytes:
            return False
        return decode_rate(network, place, users, wish) >= wish.rate

    if not is_served(1):
        return 0
    low, high = 1, MOST_USERS + 1  # more users are never faster for each
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_served(middle) else (low, middle)
    return low


def needed_bytes(network: Network, shares: Shares, users: int, wish: Wish) -> float:
    """Memory that must be there: weights, cache, and working memory, at least what the loader asks for."""
    cache = cache_pool_bytes(network, users, wish.context, wish.kv_dtype)
    return network.whole.total_bytes + cache + max(LOADER_BYTES, working(network, shares))


def decode_rate(network: Network, place: Place, users: int, wish: Wish) -> float:
    """Tokens per second of each of so many users, whose contexts are full."""
    return 1.0 / decode_seconds(network, place.limits, place.shares, users, wish.context, wish.kv_dtype)


def ranged(value: float, spread: Spread, place: Place) -> Figure:
    """A prediction with the spread that was measured, wider for machines known from a data sheet only."""
    wide = spread.widened(place.unsure)
    return Figure(value=value, low=value * min(1.0, wide.low), high=value * max(1.0, wide.high))


def cheapest(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The cheapest outcome that meets the wish and has a price of more than electricity; None where none does."""
    rented = [
        item for item in outcomes if item.meets and item.per_month is not None and item.place.price_note == "rent"
    ]
    return min(rented, key=cost_order) if rented else None


def cost_order(item: Outcome) -> tuple[float, float]:
    """By month, then by output token; what has no price comes last."""
    month, output = (math.inf if cost is None else cost for cost in (item.per_month, item.output_per_million))
    return month, output


def nearest(outcomes: Sequence[Outcome]) -> Outcome:
    """What comes nearest to a wish that nothing with a price meets: of what can be rented, if any."""
    rented = [item for item in outcomes if item.place.price_note == "rent"]
    return min(rented or outcomes, key=closeness)


def closeness(item: Outcome) -> tuple[int, float]:
    """How near an outcome is to a wish: what lacks money before what lacks speed before what lacks memory."""
    kinds = [missing.kind for missing in item.missing]
    rank = 0 if not kinds else 1 + ("price", "speed", "memory").index(kinds[0])
    return rank, max((missing.times or math.inf for missing in item.missing), default=1.0)
