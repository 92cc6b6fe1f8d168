"""What a live server tells of itself under /metrics."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.conftest import Live, started

VLLM = """
num_requests_running num_requests_waiting kv_cache_usage_perc cache_config_info prompt_tokens_total
generation_tokens_total request_success_total num_preemptions_total prefix_cache_queries_total prefix_cache_hits_total
gpu_cache_usage_perc gpu_prefix_cache_queries_total gpu_prefix_cache_hits_total
"""
TTFT = "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 640 2560"
LATENCY = "0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680"
HISTOGRAMS = {
    "time_to_first_token_seconds": TTFT, "e2e_request_latency_seconds": LATENCY,
    "request_queue_time_seconds": LATENCY, "request_inference_time_seconds": LATENCY,
    "request_prefill_time_seconds": LATENCY, "request_decode_time_seconds": LATENCY,
    "inter_token_latency_seconds": "", "time_per_output_token_seconds": "",
    "request_time_per_output_token_seconds": "", "request_prompt_tokens": "", "request_generation_tokens": "",
    "request_max_num_generation_tokens": "", "request_params_n": "", "request_params_max_tokens": "",
    "iteration_tokens_total": "",
}  # fmt: skip
OWN = """
build_info start_seconds load_seconds engine_seconds_total decode_read_bytes_total decode_seconds_total
memory_read_limit_bytes_per_second memory_limit_share energy_measured expert_load_max_to_mean price_per_hour
cost_total cost_per_million_tokens step_seconds_bucket tasks
"""


@pytest.fixture(scope="module")
def priced() -> Iterator[Live]:
    with started("--price-per-hour", "3.6", "--currency", "EUR") as server:
        with server.client() as client:
            client.completions.create(model="demo", prompt="def f(", max_tokens=20)
        yield server


def values(live: Live) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels, but for those that all of them have."""
    families = text_string_to_metric_families(httpx.get(live.url + "/metrics").text)
    return {
        (sample.name, frozenset(sample.labels.items()) - {("model_name", "demo"), ("engine", "0")}): sample.value
        for family in families
        for sample in family.samples
    }


def labelled(live: Live, name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sorted(value for _, value in labels)): figure
        for (found, labels), figure in values(live).items()
        if found == name
    }


def test_vllms_names_and_buckets_are_there_to_the_letter(priced: Live) -> None:
    found = values(priced)
    names = {name for name, _ in found}
    assert {f"vllm:{name}" for name in VLLM.split()} <= names
    for name, buckets in HISTOGRAMS.items():
        bounds = [dict(labels)["le"] for found_name, labels in found if found_name == f"vllm:{name}_bucket"]
        assert bounds[-1] == "+Inf", name
        assert not buckets or [float(bound) for bound in bounds[:-1]] == [float(item) for item in buckets.split()], name
    assert {"http_requests_total", "http_request_duration_seconds_count", "process_resident_memory_bytes"} <= names
    assert not [name for name in names if "swapped" in name or "lora" in name]


def test_vllms_metrics_carry_its_labels(priced: Live) -> None:
    for line in httpx.get(priced.url + "/metrics").text.splitlines():
        if line.startswith(("vllm:", "twofold:")):
            assert 'model_name="demo"' in line
            assert 'engine="0"' in line
    assert labelled(priced, "vllm:request_success_total") == {("length",): 1.0}


def test_our_own_figures_are_there(priced: Live) -> None:
    end = time.monotonic() + 60
    while not labelled(priced, "twofold:memory_limit_share") and time.monotonic() < end:
        time.sleep(0.2)  # the limit is measured in a quiet moment
    names = {name for name, _ in values(priced)}
    assert {f"twofold:{name}" for name in OWN.split()} <= names
    assert set(labelled(priced, "twofold:expert_load_max_to_mean")) == {("0",), ("1",), ("2",), ("3",)}
    assert all(1.0 <= ratio <= 8.0 for ratio in labelled(priced, "twofold:expert_load_max_to_mean").values())
    for phase in ("imports", "config", "tokenizer", "weights", "engine", "warm-up"):
        assert labelled(priced, "twofold:start_seconds")[phase,] >= 0.0


def test_energy_is_measured_or_its_absence_has_a_reason(priced: Live) -> None:
    [(reason, measured)] = labelled(priced, "twofold:energy_measured").items()
    assert (measured == 1.0) == (reason == ("",))
    assert bool(labelled(priced, "twofold:energy_joules_total")) == (measured == 1.0)


def test_costs_follow_from_seconds_and_the_price(priced: Live) -> None:
    found = values(priced)

    def of(name: str, **labels: str) -> float:
        return found[f"twofold:{name}", frozenset(labels.items())]

    assert of("price_per_hour", currency="EUR") == 3.6
    for phase in ("input", "output", "idle"):
        seconds = of("engine_seconds_total", phase=phase)
        assert of("cost_total", currency="EUR", phase=phase) == pytest.approx(seconds / 1000)
    unit = {"currency": "EUR", "phase": "output"}
    full = of("cost_per_million_tokens", utilisation="full", **unit)
    assert full == pytest.approx(of("cost_total", **unit) / 20 * 1e6)
    assert of("cost_per_million_tokens", utilisation="measured", **unit) > full


def test_without_a_price_no_cost_is_shown(live: Live) -> None:
    text = httpx.get(live.url + "/metrics").text
    assert "twofold:engine_seconds_total" in text
    assert not re.search(r"twofold:(cost|price)", text)


def test_the_phases_are_printed_and_ready_is_the_last_line(priced: Live) -> None:
    assert re.search(r"started in [\d.]+ s: imports [\d.]+, config [\d.]+,.* warm-up [\d.]+", "".join(priced.lines))
    assert "price: 3.6 EUR per hour" in "".join(priced.lines)
    assert priced.lines[-1].startswith("ready: http://127.0.0.1:")


@pytest.mark.parametrize("stream", [False, True])
def test_a_requests_own_cost_is_told_when_it_asks(priced: Live, stream: bool) -> None:
    more = {"stream_options": {"include_usage": True}} if stream else {}
    with priced.client() as client:
        given = client.completions.create(
            model="demo", prompt="def f(", max_tokens=9, stream=stream, extra_body={"usage_details": True}, **more
        )
        usage = (list(given)[-1] if stream else given).usage
    details = usage.model_extra["details"]
    assert set(details) == {"engine_seconds", "queue_seconds", "cost", "currency"}
    assert details["engine_seconds"] > 0 <= details["queue_seconds"]
    assert details["cost"] == pytest.approx(details["engine_seconds"] / 1000, rel=1e-3)
    assert details["currency"] == "EUR"


def test_requests_seconds_sum_to_the_engines(priced: Live) -> None:
    before = priced.metric("twofold:cost_total")
    assert before > 0
    busy = {phase: seconds for (phase,), seconds in labelled(priced, "twofold:engine_seconds_total").items()}
    with priced.client() as client:
        spent = 0.0
        for _ in range(3):
            given = client.completions.create(
                model="demo", prompt="def f(", max_tokens=9, extra_body={"usage_details": True}
            )
            assert given.usage is not None
            spent += given.usage.model_extra["details"]["engine_seconds"]
    after = {phase: seconds for (phase,), seconds in labelled(priced, "twofold:engine_seconds_total").items()}
    grown = sum(after[phase] - busy[phase] for phase in ("input", "output"))
    assert spent == pytest.approx(grown, abs=1e-4)


def test_without_asking_usage_has_no_details(priced: Live) -> None:
    with priced.client() as client:
        given = client.completions.create(model="demo", prompt="def f(", max_tokens=2)
    assert given.usage is not None
    assert not given.usage.model_extra


def test_without_a_price_a_request_has_seconds_and_no_cost(live: Live) -> None:
    body = {"prompt": "def f(", "max_tokens": 2, "usage_details": True}
    details = httpx.post(live.url + "/v1/completions", json=body).json()["usage"]["details"]
    assert details["engine_seconds"] > 0
    assert (details["cost"], details["currency"]) == (None, None)


def test_details_of_a_stream_without_usage_are_refused(live: Live) -> None:
    body = {"prompt": "def f(", "stream": True, "usage_details": True}
    answer = httpx.post(live.url + "/v1/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "usage_details"


def test_load_tells_what_a_balancer_wants_to_know(priced: Live) -> None:
    told = httpx.get(priced.url + "/load").json()
    assert set(told) == {
        "server_load", "running", "waiting", "cache_free_share", "prompt_tokens_per_second",
        "generation_tokens_per_second", "draining",
    }  # fmt: skip
    assert (told["server_load"], told["running"], told["waiting"], told["draining"]) == (0, 0, 0, False)
    assert 0.0 < told["cache_free_share"] <= 1.0


def test_a_server_that_is_leaving_says_so_under_load() -> None:
    with started("--grace", "60") as server, server.client() as client:
        stream = client.completions.create(
            model="demo", prompt="def f(", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        server.process.send_signal(signal.SIGTERM)
        while httpx.get(server.url + "/health").status_code == 200:
            time.sleep(0.01)
        told = httpx.get(server.url + "/load").json()
        assert told["draining"]
        assert (told["running"], told["waiting"]) == (1, 0)
        assert told["cache_free_share"] < 1.0
        stream.close()
        assert server.process.wait(60) == 0


def test_experts_are_told_one_by_one(priced: Live) -> None:
    layers = httpx.get(priced.url + "/experts").json()["layers"]
    assert [len(layer) for layer in layers] == [8] * 4
    *others, last = map(sum, layers)
    assert len(set(others)) == 1
    assert 0 < last < others[0]  # of a prompt only the last token needs its experts
