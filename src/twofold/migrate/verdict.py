"""Go or no-go: every check with its limit, what was found, and whether it passed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twofold.migrate.figures import Figures


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What must hold for a go.

    least_prompts: requests that both sides answered. most_failures: share of requests the new side fails.
    least_agreement: mean overlap of the answers' words. most_loss: how much smaller the new side's share of valid
    tool calls, and of valid forms, may be. most_slowdown: new median time over the old one. most_cost: the same of
    the cost.
    """

    least_prompts: int = 20
    most_failures: float = 0.0
    least_agreement: float = 0.5
    most_loss: float = 0.02
    most_slowdown: float = 1.5
    most_cost: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition. passed: None where there was nothing to judge, which does not stand in the way of a go."""

    name: str
    found: str
    limit: str
    passed: bool | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The whole. is_partial: not all requests were asked, which is never a go."""

    checks: tuple[Check, ...]
    is_partial: bool

    @property
    def is_go(self) -> bool:
        """Whether nothing stands in the way."""
        return not self.is_partial and not any(check.passed is False for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """What stands in the way."""
        failed = [
            f"{check.name}: {check.found}; needed: {check.limit}" for check in self.checks if check.passed is False
        ]
        return (["not all requests were asked: this is a part of the comparison"] if self.is_partial else []) + failed


def decide(figures: Figures, limits: Limits, is_partial: bool) -> Verdict:
    """Judge the figures."""
    new, old = figures.new, figures.old
    failed = sum(new.failures.values())
    share = failed / figures.requests if figures.requests else 0.0
    told = ", ".join(f"{count} {kind}" for kind, count in new.failures.items())
    hint = f" ({new.unenforced} were not enforced: put twofold serve in its place)" if new.unenforced else ""
    tools = (old.tools_valid, old.tools_judged), (new.tools_valid, new.tools_judged)
    forms = (old.forms_valid, old.forms_judged), (new.forms_valid, new.forms_judged)
    checks = [
        Check(
            name="enough evidence", found=f"{figures.pairs} of {figures.requests} requests answered by both",
            limit=f"at least {limits.least_prompts}", passed=figures.pairs >= limits.least_prompts,
        ),
        Check(
            name="failures of the new side", found=f"{failed} of {figures.requests}" + (f" ({told})" if told else ""),
            limit=f"at most {limits.most_failures * 100:g} %", passed=share <= limits.most_failures,
        ),
        Check(
            name="agreement of the answers", found=percent(figures.overlap) + " of the words in common",
            limit=f"at least {limits.least_agreement * 100:g} %",
            passed=None if figures.overlap is None else figures.overlap >= limits.least_agreement,
        ),
        kept("valid tool calls", *tools, limits, hint),
        kept("valid JSON answers", *forms, limits, hint),
        ratio("median time of an answer", old.total_median_s, new.total_median_s, limits.most_slowdown),
        ratio("cost", old.cost, new.cost, limits.most_cost),
    ]  # fmt: skip
    return Verdict(checks=tuple(checks), is_partial=is_partial)


def kept(name: str, old: Sequence[int], new: Sequence[int], limits: Limits, hint: str) -> Check:
    """A share of valid answers that the new side must keep: counts of valid ones, and of all that were judged."""
    found = f"old {old[0]} of {old[1]}, new {new[0]} of {new[1]}{hint}"
    limit = f"share at most {limits.most_loss * 100:g} points lower"
    if not old[1] and not new[1]:
        return Check(name=name, found="none in this traffic", limit=limit, passed=None)
    if not new[1]:
        return Check(name=name, found=found, limit=limit, passed=not old[0])
    before = old[0] / old[1] if old[1] else 1.0
    return Check(name=name, found=found, limit=limit, passed=new[0] / new[1] >= before - limits.most_loss - 1e-9)


def ratio(name: str, old: float | None, new: float | None, most: float) -> Check:
    """A figure of the new side as a multiple of the old side's."""
    if old is None or new is None or old <= 0:
        return Check(name=name, found="not known for both sides", limit=f"at most {most:g} times", passed=None)
    return Check(
        name=name, found=f"{new / old:.2f} times the old one", limit=f"at most {most:g} times", passed=new / old <= most
    )  # fmt: skip


def percent(share: float | None) -> str:
    """A share in words."""
    return "unknown share" if share is None else f"{share * 100:.0f} %"
