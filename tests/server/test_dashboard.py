"""The Grafana dashboard asks for what a server really exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.conftest import Live, started

FILE = Path(__file__).parents[2] / "docs" / "grafana-dashboard.json"
NAME = re.compile(r"\b(?:vllm:|twofold:|http_|process_)[a-z0-9_]+")
GROUPED_BY = re.compile(r"by \(([a-z_, ]+)\)|\{\{([a-z_]+)\}\}|[{,] *([a-z_]+)=~?\"")


@pytest.fixture(scope="module")
def served() -> Iterator[Live]:
    with started("--price-per-hour", "1") as server:
        with server.client() as client:
            client.completions.create(model="demo", prompt="def f(", max_tokens=5)
        httpx.get(server.url + "/nothing")
        yield server


def panels() -> list[Any]:
    return [panel for panel in json.loads(FILE.read_text())["panels"] if panel["type"] != "row"]


def queries() -> list[tuple[str, str]]:
    return [(target["expr"], target["legendFormat"]) for panel in panels() for target in panel["targets"]]


def test_every_metric_and_label_it_asks_for_is_exported(served: Live) -> None:
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(httpx.get(served.url + "/metrics").text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    if "twofold:energy_joules_total" not in labels:  # not every machine lets it be measured
        assert served.metric("twofold:energy_measured") == 0
        labels["twofold:energy_joules_total"] = {"domain", "model_name", "engine"}
    for expression, legend in queries():
        names = NAME.findall(expression)
        assert names, expression
        for name in names:
            assert name in labels, name
            asked = GROUPED_BY.findall(expression + legend)
            wanted = {
                label.strip() for found in asked for group in found for label in group.split(",") if label.strip()
            }
            assert wanted <= labels[name] | {"le"}, (expression, wanted - labels[name])


def test_it_shows_what_an_operator_looks_for() -> None:
    asked = " ".join(expression for expression, _ in queries())
    for name in (
        "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds", "vllm:generation_tokens_total",
        "vllm:request_queue_time_seconds", "vllm:kv_cache_usage_perc", "vllm:prefix_cache_hits_total",
        "twofold:cost_per_million_tokens", "http_requests_total", "twofold:memory_limit_share",
    ):  # fmt: skip
        assert name in asked, name


def test_every_panel_asks_the_chosen_source_and_none_covers_another() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    for panel in json.loads(FILE.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + column, place["y"] + line) for column in range(place["w"]) for line in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    for panel in panels():
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
