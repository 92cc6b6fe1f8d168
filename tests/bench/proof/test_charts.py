from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench.proof.proofs import MAKERS, complete, empty, endpoint, partial
from twofold.bench.proof.charts import charts_of, cost_chart, judged_of
from twofold.bench.proof.model import Quality


@pytest.mark.parametrize("name", MAKERS)
def test_every_plot_is_there_or_says_why_not(name: str) -> None:
    proof, samples = MAKERS[name]()
    for chart in [*charts_of(proof, samples), cost_chart(proof)]:
        assert (chart.drawing is None) == chart.says.startswith("Not measurable here: ")
        assert chart.title


def test_a_whole_proof_has_every_plot() -> None:
    proof, samples = complete()
    assert all(chart.drawing for chart in [*charts_of(proof, samples), cost_chart(proof)])


def test_what_is_not_known_is_not_drawn() -> None:
    drawn = {maker: [bool(chart.drawing) for chart in charts_of(*maker())] for maker in (endpoint, partial, empty)}
    assert drawn[endpoint] == [True, True, True, True, True, False]
    assert drawn[partial] == [True, True, True, True, False, True]
    assert drawn[empty] == [False] * 5 + [True] if empty()[0].roofline else [False] * 6


def test_failed_answers_count_in_no_plot() -> None:
    proof, samples = complete()
    first = charts_of(proof, samples)[0].says
    failed = [*samples, replace(samples[0], error="refused", first_s=99.0)]
    assert charts_of(proof, failed)[0].says == first


def test_the_strongest_figure_of_quality_is_drawn() -> None:
    assert judged_of(None) is None
    assert judged_of(Quality(kind="none")) is None
    limited = judged_of(Quality(kind="answers", same=0.8, overlap=0.9, limits={"overlap": 0.75}))
    assert limited is not None
    assert (limited.name, limited.limit) == ("overlap", 0.75)
    answers = judged_of(Quality(kind="answers", same=0.8, overlap=0.9, limits={"same": 0.5}))
    assert answers is not None
    assert (answers.name, answers.value, answers.best, answers.limit) == ("same", 0.8, 1.0, 0.5)
    scored = judged_of(Quality(kind="scored", kl=0.1, agreement=0.9, same=0.5))
    assert scored is not None
    assert (scored.name, scored.best, scored.write(0.02)) == ("kl", 0.0, "0.02")


def test_zeros_on_a_logarithmic_axis_are_told() -> None:
    proof, samples = complete()
    assert "are 0 (pieces that arrived together)" in charts_of(proof, samples)[1].says
