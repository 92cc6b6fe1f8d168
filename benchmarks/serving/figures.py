"""From answers to figures: rates, times to the first token, gaps between tokens, and their spread over rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.serving.client import Answer, BadAnswer, Figures

SHARES = (50, 99)
FASTER = ("tokens_per_s",)
"""Figures of which more is better; of all others less is."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` percent of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]


def milliseconds(values: Sequence[float], name: str) -> dict[str, float]:
    """Percentiles of seconds, as NAME_p50_ms and so on; none without values."""
    return {f"{name}_p{share}_ms": round(1000 * percentile(values, share), 2) for share in SHARES if values}


def check(answers: Iterable[Answer], prompt_tokens: int, answer_tokens: int) -> list[Figures]:
    """All answers read. Raises BadAnswer unless each has exactly as many tokens as were asked for."""
    found = [answer.read() for answer in answers]
    for item in found:
        if (item.prompt_tokens, item.answer_tokens) != (prompt_tokens, answer_tokens):
            raise BadAnswer(
                f"an answer of {item.answer_tokens} tokens to a prompt of {item.prompt_tokens} came; "
                f"{answer_tokens} to {prompt_tokens} were asked for"
            )
    return found


def level_figures(answers: Sequence[Answer], read: Sequence[Figures]) -> dict[str, float]:
    """Figures of answers that ran at once. Tokens count from the first request to the last token."""
    seconds = max(item.end_s for item in read) - min(answer.sent_s for answer in answers)
    gaps = [gap for item in read for gap in item.gaps_s]
    return {
        "tokens_per_s": round(sum(item.answer_tokens for item in read) / seconds, 2),
        **milliseconds([item.first_s for item in read], "first_token"),
        **milliseconds(gaps, "between_tokens"),
    }


def spread(rounds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Median, smallest and largest of each figure over the rounds."""
    names = dict.fromkeys(name for item in rounds for name in item)
    return {name: spread_of([item[name] for item in rounds if name in item]) for name in names}


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": round(statistics.median(values), 3), "least": min(values), "most": max(values)}


def times_as_good(own: Mapping[int, Mapping[str, float]], other: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """How many times as good `own` is, by figure: the median of the ratios within the rounds that both ran.

    Above 1 is better for every figure: more tokens per second, or less waiting.
    """
    ratios: dict[str, list[float]] = {}
    for number in own.keys() & other.keys():
        for name in own[number].keys() & other[number].keys():
            pair = own[number][name], other[number][name]
            above, below = pair if name in FASTER else pair[::-1]
            if below > 0:
                ratios.setdefault(name, []).append(above / below)
    return {name: round(statistics.median(values), 3) for name, values in sorted(ratios.items())}
