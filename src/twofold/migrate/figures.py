"""The figures of a comparison, each side by itself and both together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from twofold.bench.prices import Hosted, Machine, PriceBook, nearest
from twofold.errors import SettingsError
from twofold.migrate.answers import Answer
from twofold.migrate.judging import Pair, Validity


@dataclass(frozen=True, kw_only=True)
class SideFigures:
    """One side. Tokens are summed over the requests for which it told them. Seconds: of answers without a failure.

    unenforced: answers whose form or tool was asked for and not enforced, because the side runs in this process.
    cost is for these requests, sent one after the other, in the currency of the price book; None without a price.
    """

    answered: int
    failures: dict[str, int]
    empty: int
    cut: int
    unenforced: int
    tools_valid: int
    tools_judged: int
    forms_valid: int
    forms_judged: int
    prompt_tokens: int | None
    completion_tokens: int | None
    first_token_median_s: float | None
    first_token_p95_s: float | None
    total_median_s: float | None
    total_p95_s: float | None
    cost: float | None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Both sides. pairs: requests that both answered; the shares are of these."""

    requests: int
    pairs: int
    exact: float | None
    normalised: float | None
    overlap: float | None
    same_calls: int
    calls_judged: int
    old: SideFigures
    new: SideFigures


Price = Hosted | Machine


def find_price(book: PriceBook, name: str) -> Price:
    """A hosted API or a machine of the book. Raises SettingsError naming the nearest one."""
    if name in book.hosted:
        return book.hosted[name]
    if name in book.machines:
        return book.machines[name]
    known = [*book.hosted, *book.machines]
    raise SettingsError(f"the price book has no {name!r}; {nearest(name, known)}it has {', '.join(known) or 'nothing'}")


def figures_of(pairs: Sequence[Pair], old_price: Price | None, new_price: Price | None) -> Figures:
    """All figures of a comparison."""
    agreements = [pair.agreement for pair in pairs if pair.agreement]
    calls = [item.calls for item in agreements if item.calls is not None]
    return Figures(
        requests=len(pairs), pairs=len(agreements),
        exact=mean([float(item.exact) for item in agreements]),
        normalised=mean([float(item.normalised) for item in agreements]),
        overlap=mean([item.overlap for item in agreements]),
        same_calls=sum(calls), calls_judged=len(calls),
        old=side_figures([pair.old for pair in pairs], [pair.old_validity for pair in pairs], old_price),
        new=side_figures([pair.new for pair in pairs], [pair.new_validity for pair in pairs], new_price),
    )  # fmt: skip


def side_figures(answers: Sequence[Answer], validities: Sequence[Validity], price: Price | None) -> SideFigures:
    """The figures of one side."""
    good = [answer for answer in answers if answer.failure is None]
    kinds = [answer.failure.split(":")[0][:24] for answer in answers if answer.failure is not None]
    firsts = [answer.first_token_s for answer in good if answer.first_token_s is not None]
    totals = [answer.total_s for answer in good]
    return SideFigures(
        answered=len(good), failures={kind: kinds.count(kind) for kind in sorted(set(kinds))},
        empty=sum(answer.is_empty for answer in good), cut=sum(answer.finish == "length" for answer in good),
        unenforced=sum(any("not enforced" in note for note in answer.notes) for answer in good),
        tools_valid=sum(item.tools is True for item in validities),
        tools_judged=sum(item.tools is not None for item in validities),
        forms_valid=sum(item.form is True for item in validities),
        forms_judged=sum(item.form is not None for item in validities),
        prompt_tokens=total(good, lambda answer: answer.prompt_tokens),
        completion_tokens=total(good, lambda answer: answer.completion_tokens),
        first_token_median_s=quantile(firsts, 0.5), first_token_p95_s=quantile(firsts, 0.95),
        total_median_s=quantile(totals, 0.5), total_p95_s=quantile(totals, 0.95),
        cost=cost_of(good, price),
    )  # fmt: skip


def cost_of(answers: Sequence[Answer], price: Price | None) -> float | None:
    """What the answers cost: by token at a hosted API, by time on a machine that does nothing else meanwhile."""
    if price is None or not answers:
        return None
    if isinstance(price, Machine):
        return price.per_hour * sum(answer.total_s for answer in answers) / 3600
    if any(answer.prompt_tokens is None or answer.completion_tokens is None for answer in answers):
        return None
    given = sum(answer.prompt_tokens or 0 for answer in answers) * price.input_per_million
    made = sum(answer.completion_tokens or 0 for answer in answers) * price.output_per_million
    return (given + made) / 1e6


def mean(values: Sequence[float]) -> float | None:
    """None of no values."""
    return sum(values) / len(values) if values else None


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed; None of no values."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)] if values else None


def total(answers: Sequence[Answer], count: Callable[[Answer], int | None]) -> int | None:
    """The sum over the answers that have it; None when none has."""
    counts = [found for found in map(count, answers) if found is not None]
    return sum(counts) if counts else None
