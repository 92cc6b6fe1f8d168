"""What the measured speed means in money.

A machine is paid for by the hour, whether it works or not: at full use a million tokens cost what the machine costs
while it makes them, and a server that is used little costs the same month for fewer tokens. The seconds of a run are
split between input and output as its requests waited: until their first token, and after it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from twofold.bench.prices import Hosted
from twofold.bench.proof.model import ROLES, Cost, Role, Run, Sample

HOURS_A_MONTH = 730.0
POINTS = 40


class Totals:
    """Sums over all runs of a contender."""

    def __init__(self, role: Role, runs: Sequence[Run], samples: Sequence[Sample]) -> None:
        good = [item for item in samples if item.role == role and not item.error]
        self.seconds = sum(run.seconds for run in runs if run.role == role)
        self.requests = len(good)
        self.input = sum(item.prompt_tokens for item in good)
        self.output = sum(item.answer_tokens for item in good)
        waits, rests = sum(item.first_s for item in good), sum(item.total_s - item.first_s for item in good)
        self.input_share = waits / (waits + rests) if waits + rests else 0.0

    @property
    def per_second(self) -> float:
        """Output tokens."""
        return self.output / self.seconds if self.seconds else 0.0

    def most_a_month(self) -> float:
        """Output tokens of one machine that never rests."""
        return self.per_second * 3600 * HOURS_A_MONTH


def cost_of(
    runs: Sequence[Run],
    samples: Sequence[Sample],
    price: tuple[float, str, str],
    hosted: Mapping[str, Hosted],
    monthly_tokens: float | None,
) -> Cost | None:
    """Cost at a price (per hour, currency, source); None when a contender made no token.

    hosted: prices in the same currency. monthly_tokens: output tokens a month of the user's own.
    """
    per_hour, currency, source = price
    totals = {role: Totals(role, runs, samples) for role in ROLES}
    if not all(item.output for item in totals.values()):
        return None
    candidate = totals["candidate"]
    mix = candidate.input / candidate.output
    offers = {name: item.output_per_million + mix * item.input_per_million for name, item in hosted.items()}
    return Cost(
        currency=currency,
        per_hour=per_hour,
        source=source,
        per_million_input={role: share(item, per_hour, item.input_share, item.input) for role, item in totals.items()},
        per_million_output={
            role: share(item, per_hour, 1 - item.input_share, item.output) for role, item in totals.items()
        },
        per_request={role: per_hour * item.seconds / 3600 / item.requests for role, item in totals.items()},
        curve={role: curve(item, per_hour) for role, item in totals.items()},
        hosted=offers,
        break_even_tokens={name: break_even(candidate, per_hour, offer) for name, offer in offers.items()},
        monthly_saving=saving(totals, per_hour, monthly_tokens) if monthly_tokens else None,
        notes=notes_of(totals, mix, monthly_tokens),
    )


def share(totals: Totals, per_hour: float, part: float, tokens: int) -> float:
    """Cost of a million tokens that took a part of the seconds; 0 for tokens there were none of."""
    return per_hour * totals.seconds / 3600 * part / tokens * 1e6 if tokens else 0.0


def curve(totals: Totals, per_hour: float) -> list[tuple[float, float]]:
    """(output tokens a month, cost of a million of them) from a hundredth of one machine's month to three machines."""
    full = totals.most_a_month()
    volumes = [full * 10 ** (-2 + (2 + math.log10(3)) * index / (POINTS - 1)) for index in range(POINTS)]
    return [(volume, month(totals, per_hour, volume) / volume * 1e6) for volume in volumes]


def month(totals: Totals, per_hour: float, tokens: float) -> float:
    """Cost of a month with so many output tokens: whole machines, always on."""
    machines = max(1, math.ceil(tokens / totals.most_a_month() - 1e-9))
    return machines * per_hour * HOURS_A_MONTH


def break_even(totals: Totals, per_hour: float, offer: float) -> float | None:
    """Output tokens a month from which one machine is cheaper than an offer per million; None: not even at full use."""
    tokens = per_hour * HOURS_A_MONTH / offer * 1e6
    return tokens if tokens <= totals.most_a_month() else None


def saving(totals: Mapping[Role, Totals], per_hour: float, tokens: float) -> float:
    """What the candidate saves in a month with so many output tokens."""
    return month(totals["baseline"], per_hour, tokens) - month(totals["candidate"], per_hour, tokens)


def notes_of(totals: Mapping[Role, Totals], mix: float, monthly_tokens: float | None) -> list[str]:
    """What a reader must know."""
    notes = [
        "The same machine price is taken for both.",
        f"This workload has {mix:.1f} input tokens for each output token; prices of others count both.",
    ]
    if monthly_tokens:
        counts = {role: max(1, math.ceil(monthly_tokens / item.most_a_month() - 1e-9)) for role, item in totals.items()}
        notes.append(
            f"{monthly_tokens:,.0f} output tokens a month take {counts['baseline']} machines as it is and "
            f"{counts['candidate']} with the candidate, at this workload's speed around the clock."
        )
    return notes
