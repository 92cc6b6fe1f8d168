from __future__ import annotations

import math
from dataclasses import replace

from tests.bench.proof.proofs import complete, endpoint
from twofold.bench.proof.axes import figure
from twofold.bench.proof.model import METRICS, Interval
from twofold.bench.proof.tables import (
    UNKNOWN,
    cost_rows,
    fact,
    fact_rows,
    hosted_rows,
    metric_rows,
    quality_rows,
    setting_rows,
)


def test_every_figure_has_a_row_and_what_is_missing_says_so_in_words() -> None:
    proof, _ = endpoint()
    rows = metric_rows(proof)
    assert [row.title for row in rows] == [metric.title for metric in METRICS.values()]
    by_title = {row.title: row for row in rows}
    memory = by_title["Peak memory"]
    assert [*[cell.text for cell in memory.cells], memory.ratio.text] == [UNKNOWN] * 3
    assert memory.bar is None
    speed = by_title["Output tokens per second"]
    assert speed.judged
    assert speed.ratio.text == f"{proof.ratios['tokens_per_s'].median:.2f}x"
    assert all(cell.text and cell.text != "-" for row in rows for cell in (*row.cells, row.ratio))


def test_what_is_no_number_is_not_measurable() -> None:
    proof, _ = complete()
    broken = {"tokens_per_s": Interval(median=math.inf, low=1, high=math.nan)}
    rows = metric_rows(replace(proof, ratios=broken, figures={"baseline": broken, "candidate": {}}))
    assert {cell.text for row in rows for cell in (*row.cells, row.ratio)} == {UNKNOWN}


def test_quality_says_what_was_demanded() -> None:
    proof, _ = complete()
    rows = {row.name: row.values for row in quality_rows(proof.quality)}
    assert rows["KL divergence, mean"] == ["0.00610", "at most 0.02"]
    assert rows["Same next token"] == ["96.4 %", "at least 95 %"]
    assert rows["Same answers"] == ["71.0 %", "none set"]
    assert rows["Right answers, candidate"] == ["91.7 %", "at most 2 % fewer"]
    assert quality_rows(None) == []


def test_cost_is_told_by_contender_and_against_hosts() -> None:
    proof, samples = complete()
    cost = proof.cost
    assert cost is not None
    rows = {row.name: row.values for row in cost_rows(cost, samples)}
    own = [item for item in samples if item.role == "candidate"]
    tokens, seconds = (
        sum(item.answer_tokens for item in own),
        sum(r.seconds for r in proof.runs if r.role == "candidate"),
    )
    assert rows["A million output tokens"][1] == figure(cost.per_hour / 3600 * seconds / tokens * 1e6)
    assert rows["1,000 requests"][0] == figure(1000 * cost.per_request["baseline"])
    hosted = [row.values[1] for row in hosted_rows(cost)]
    assert hosted[0] == "never, even in full use"
    assert hosted[-1].startswith("from 1")
    lone = replace(cost, per_million_input={"candidate": 1.0})
    assert cost_rows(lone, [])[2].values == [UNKNOWN, "1.00", UNKNOWN]
    assert cost_rows(lone, [])[0].values == [UNKNOWN] * 3


def test_settings_that_differ_are_marked() -> None:
    proof, _ = complete()
    rows = {row.name: row for row in setting_rows(proof.contenders)}
    assert rows["setting: dtype"].marked
    assert rows["setting: dtype"].values == ["bf16", "w4a8"]
    assert not rows["model"].marked
    assert rows["setting: batching"].values == ["static, 4", "not set"]
    assert len(setting_rows({})) == 0


def test_facts_are_read_with_their_units() -> None:
    facts = {"memory_bytes": 33_427_890_176, "limits": {"gap_ms": 80, "first_s": 0.5}, "idle_share": 0.25, "gpu": None}
    assert [(row.name, row.values[0]) for row in fact_rows(facts)] == [
        *(("memory", "33.4 GB"), ("limits: gap", "80.0 ms"), ("limits: first", "0.500 s"), ("idle", "25.0 %")),
        ("gpu", "not known"),
    ]
    assert fact([1, "a", True, *range(20)]) == "1, a, yes, 0, 1, 2, 3, 4, 5, 6, 7, 8 and 11 more"
    assert fact(math.nan) == "no number"
