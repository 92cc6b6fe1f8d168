"""Answers side by side, and what went wrong instead of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from twofold.bench.proof.model import ROLES, Proof, Role, Sample

MOST_PAIRS = 5
MOST_ERRORS = 5
MOST_LETTERS = 2000


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both answers to one request. common: what both begin with; rests: what follows, the baseline's first."""

    title: str
    prompt: str
    common: str
    rests: Sequence[str]

    @property
    def says(self) -> str:
        """Whether they are the same, in words."""
        if not any(self.rests):
            return "the same answer"
        return (
            f"the same for the first {len(self.common):,} letters" if self.common else "different from the first letter"
        )


def pairs_of(proof: Proof, samples: Sequence[Sample]) -> list[Pair]:
    """The first few requests that both answered in the same round: every round may have requests of its own."""
    texts: dict[Role, dict[tuple[int, int], str]] = {role: {} for role in ROLES}
    for sample in samples:
        if sample.text and not sample.error:
            texts[sample.role].setdefault((sample.round, sample.request), sample.text)
    both = sorted(texts["baseline"].keys() & texts["candidate"].keys())[:MOST_PAIRS]
    prompts = prompts_of(proof.workload)
    return [
        pair(f"Round {key[0] + 1}, request {key[1] + 1}", prompts.get(key, ""), [texts[role][key] for role in ROLES])
        for key in both
    ]


def pair(title: str, prompt: str, texts: Sequence[str]) -> Pair:
    """Where two texts part, at the beginning of the word that differs."""
    same = takewhile(lambda both: both[0] == both[1], zip(*texts, strict=False))
    common = "".join(letter for letter, _ in same)
    if any(text != common for text in texts):
        common = common[: common.rfind(" ") + 1]
    rests = [cut(text[len(common) :]) for text in texts]
    return Pair(title=title, prompt=cut(prompt), common=cut(common), rests=rests)


def prompts_of(workload: Mapping[str, Any]) -> dict[tuple[int, int], str]:
    """The prompts of the first round by round and number, where the workload tells them."""
    prompts = workload.get("prompts")
    if not isinstance(prompts, Sequence) or isinstance(prompts, str):
        return {}
    return {(0, number): text for number, text in enumerate(prompts) if isinstance(text, str)}


def cut(text: str) -> str:
    """Not more than a reader wants to see."""
    rest = len(text) - MOST_LETTERS
    return text if rest <= 0 else f"{text[:MOST_LETTERS]} [and {rest:,} more letters]"


def failures_of(samples: Sequence[Sample]) -> list[str]:
    """How many answers failed, by contender, and the most frequent reasons."""
    told = []
    for role in ROLES:
        own = [sample for sample in samples if sample.role == role]
        errors = Counter(cut(sample.error) for sample in own if sample.error)
        if errors:
            told.append(f"{errors.total():,} of {len(own):,} answers of the {role} failed.")
            told += [
                f"{'once' if count == 1 else f'{count:,} times'}: {error}"
                for error, count in errors.most_common(MOST_ERRORS)
            ]
    return told
