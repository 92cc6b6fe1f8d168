"""Nothing is proven that is not shown: speed with its interval, quality, and that nothing failed."""

from __future__ import annotations

from typing import Any

import pytest

from twofold.bench.proof.model import Interval, Quality, Run
from twofold.bench.proof.verdict import Demands, judge

CLEAR = {"tokens_per_s": Interval(median=2.4, low=2.1, high=2.6)}
GOOD = Quality(
    kind="scored", kl=0.01, kl_p99=0.1, agreement=0.97, scored_tokens=500, same=0.9, overlap=0.95, compared=50
)


def runs(rounds: int = 7, errors: int = 0, others: float | None = None) -> list[Run]:
    return [
        Run(round=number, role="candidate", seconds=1.0, figures={}, errors=errors, others_share=others)
        for number in range(rounds)
    ]


def test_fast_and_close_is_proven() -> None:
    verdict = judge(Demands(), CLEAR, GOOD, runs(others=0.2))
    assert verdict.proven
    assert verdict.headline == "PROVEN 2.4x (95 % between 2.10 and 2.60)"


@pytest.mark.parametrize(("ratios", "quality", "course", "said"), [
    ({"tokens_per_s": Interval(median=2.4, low=1.9, high=2.9)}, {}, {}, "1.90 and 2.90; the lower bound must reach 2"),
    ({}, {}, {}, "could not be measured of both"),
    (CLEAR, {"kl": 0.2}, {}, "KL divergence is 0.2000 nats; at most 0.05"),
    (CLEAR, {"agreement": 0.5}, {}, "the same token at 50.0% of the positions; 90% are asked for"),
    (CLEAR, {"expected_baseline": 0.9, "expected_candidate": 0.8}, {}, "80.0% of the answers are right, 90.0%"),
    (CLEAR, {}, {"errors": 1}, "7 requests failed"),
    (CLEAR, {}, {"rounds": 3}, "3 rounds were run; 6 are needed"),
    (CLEAR, {}, {"others": 0.4}, "other programs took 40% of this machine's cores"),
])  # fmt: skip
def test_each_lack_alone_is_a_reason_that_says_so(ratios: Any, quality: Any, course: Any, said: str) -> None:
    verdict = judge(Demands(), ratios, Quality(**{**vars(GOOD), **quality}), runs(**course))
    assert not verdict.proven
    assert said in verdict.headline
    assert len(verdict.reasons) == 1


def test_other_words_of_another_model_prove_nothing_unless_right_answers_are_known() -> None:
    unlike = Quality(kind="answers", same=0.1, overlap=0.3, compared=50)
    assert "share 30% of their words" in judge(Demands(), CLEAR, unlike, runs()).headline
    right = Quality(**{**vars(unlike), "expected_baseline": 0.9, "expected_candidate": 0.95})
    assert judge(Demands(), CLEAR, right, runs()).proven
    assert judge(Demands(), CLEAR, Quality(kind="none", reason="nobody answered"), runs()).reasons == (
        "quality could not be judged: nobody answered",
    )


def test_what_is_demanded_depends_on_what_is_known() -> None:
    demands = Demands()
    assert demands.of_quality(GOOD) == {"kl": 0.05, "agreement": 0.9}
    assert demands.of_quality(Quality(kind="answers", overlap=0.8)) == {"overlap": 0.75}
    assert demands.of_quality(Quality(kind="answers", overlap=0.8, expected_baseline=0.9)) == {"lost": 0.02}
