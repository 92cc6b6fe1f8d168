"""Sampling settings are checked where they are made."""

from __future__ import annotations

import math
from typing import Any

import pytest

from twofold.engine.request import SamplingParams
from twofold.errors import InvalidSampling


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("top_k", 2.5),
        ("min_p", -1.0),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 3.0),
        ("frequency_penalty", math.nan),
        ("seed", -1),
        ("max_tokens", 0),
        ("logprobs", 1000),
        ("stop", "text"),
        ("stop", ("",)),
        ("stop_token_ids", (-1,)),
        ("logit_bias", {3: math.nan}),
        ("logit_bias", {3: 200.0}),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(InvalidSampling, match=setting.split("_ids")[0].replace("stop_token", "token id")):
        SamplingParams(**{setting: value})


def test_what_a_request_leaves_open_comes_from_the_model() -> None:
    defaults = SamplingParams(temperature=0.6, top_p=0.9)
    merged = SamplingParams(temperature=0.0, max_tokens=5).over(defaults)
    assert (merged.temperature, merged.top_p, merged.max_tokens) == (0.0, 0.9, 5)


@pytest.mark.parametrize("penalty", [0.0, 1e-264, 0.009])
def test_a_penalty_that_would_leave_no_finite_logits_is_refused(penalty: float) -> None:
    with pytest.raises(InvalidSampling, match=r"repetition_penalty is .*at least 0\.01"):
        SamplingParams(repetition_penalty=penalty)
