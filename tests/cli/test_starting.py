"""What `serve` does between loading a model and taking requests."""

from __future__ import annotations

import pytest

from twofold import LLM, SamplingParams
from twofold.cli.read_limit import ReadLimit
from twofold.cli.starting import prepare, told
from twofold.phases import Phases
from twofold.server.cost import Price
from twofold.server.facts import Facts

PATIENCE_S = 60


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("demo", dtype="w8a8", threads=1)


@pytest.fixture(scope="module")
def facts(llm: LLM) -> Facts:
    return prepare(llm, "1.2.3", Price(per_hour=1.0), Phases())


def test_warming_up_leaves_nothing_behind(llm: LLM, facts: Facts) -> None:
    assert llm.engine.is_idle
    assert (llm.engine.blocks.asked_tokens, llm.engine.blocks.known_tokens) == (0, 0)
    assert facts.expert_counts is not None
    assert facts.expert_counts() == []


def test_the_phases_are_told_in_their_order(facts: Facts) -> None:
    assert list(facts.phases) == ["warm-up"]
    assert told({"config": 1.0, "weights": 2.5}) == "started in 3.50 s: config 1.00, weights 2.50"


def test_experts_count_every_token_that_runs(llm: LLM, facts: Facts) -> None:
    assert facts.expert_counts is not None
    llm.generate([[5, 6, 7]], SamplingParams(temperature=0.0, max_tokens=1))
    assert [sum(counts) for counts in facts.expert_counts()] == [3, 3, 3, 1]  # the last layer's, for the last token


def test_one_row_reads_the_weights_once_and_more_rows_more_experts(llm: LLM, facts: Facts) -> None:
    counted = llm.loaded.model.footprint("w8a8")
    assert facts.read_bytes(1) == pytest.approx(counted.read_bytes_per_token, rel=1e-6)
    assert facts.read_bytes(1) < facts.read_bytes(4) < counted.total_bytes


def test_the_memorys_limit_is_measured_behind_the_start(llm: LLM, facts: Facts) -> None:
    found = ReadLimit(llm).wait(PATIENCE_S)
    assert found is not None
    assert found > 0


def test_the_limit_waits_for_a_quiet_moment(llm: LLM) -> None:
    llm.engine.add([5, 6, 7], SamplingParams(temperature=0.0, max_tokens=1))
    limit = ReadLimit(llm)
    assert limit.wait(0.2) is None
    while not llm.engine.is_idle:
        llm.engine.step()
    assert limit.wait(PATIENCE_S) is not None


def test_what_is_built_is_told(facts: Facts) -> None:
    assert facts.build["version"] == "1.2.3"
    assert facts.build["dtype"] == "w8a8"
    assert facts.build["isa"]


def test_the_reference_has_no_measured_limit() -> None:
    told_of_reference = prepare(LLM("demo", backend="reference"), "1", None, Phases())
    assert told_of_reference.read_limit() is None
