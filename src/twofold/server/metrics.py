"""Prometheus metrics under vLLM's names and buckets. What is read only when asked for is in figures.py."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from twofold.engine.request import Request
from twofold.engine.runner import Runner, StepReport
from twofold.engine.stream import Delivery, Stream
from twofold.server.facts import Facts
from twofold.server.figures import EngineFigures, OwnFigures, SessionFigures
from twofold.server.work import Work

if TYPE_CHECKING:
    from twofold.server.serving import Ask

FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
BETWEEN_TOKENS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
LATENCY = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
LABELS = ("model_name", "engine")
HISTOGRAMS = {
    "time_to_first_token_seconds": ("Seconds from arrival to the first token.", FIRST_TOKEN),
    "inter_token_latency_seconds": ("Seconds between two tokens of a request.", BETWEEN_TOKENS),
    "time_per_output_token_seconds": ("The same under its old name.", BETWEEN_TOKENS),
    "request_time_per_output_token_seconds": ("Mean seconds per token after the first.", BETWEEN_TOKENS),
    "e2e_request_latency_seconds": ("Seconds from arrival to the last token.", LATENCY),
    "request_queue_time_seconds": ("Seconds from arrival to the first step.", LATENCY),
    "request_inference_time_seconds": ("Seconds from the first step to the last token.", LATENCY),
    "request_prefill_time_seconds": ("Seconds from the first step to the first token.", LATENCY),
    "request_decode_time_seconds": ("Seconds from the first token to the last.", LATENCY),
    "request_prompt_tokens": ("Tokens of the prompt.", TOKENS),
    "request_generation_tokens": ("Tokens of the answer.", TOKENS),
    "request_max_num_generation_tokens": ("Tokens the answer might have had.", TOKENS),
    "request_params_n": ("Choices asked for.", (1, 2, 5, 10, 20)),
    "request_params_max_tokens": ("max_tokens asked for.", TOKENS),
    "iteration_tokens_total": ("Tokens run in one step.", STEP_TOKENS),
}
COUNTERS = {
    "prompt_tokens": "Prompt tokens of finished requests.",
    "generation_tokens": "Tokens generated.",
}


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self, model_name: str, facts: Facts) -> None:
        self.facts = facts
        self.work = Work(facts.read_bytes)
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._values = {"model_name": model_name, "engine": "0"}
        self._histograms = {
            name: Histogram(f"vllm:{name}", text, LABELS, registry=self.registry, buckets=buckets).labels(
                **self._values
            )
            for name, (text, buckets) in HISTOGRAMS.items()
        }
        self._counters = {
            name: Counter(f"vllm:{name}", text, LABELS, registry=self.registry).labels(**self._values)
            for name, text in COUNTERS.items()
        }
        self._success = Counter(
            "vllm:request_success", "Finished requests.", (*LABELS, "finished_reason"), registry=self.registry
        )
        self._step_seconds = Histogram(
            "twofold:step_seconds", "Seconds one step took.", LABELS, registry=self.registry, buckets=BETWEEN_TOKENS
        ).labels(**self._values)
        self._http = Counter("http_requests", "HTTP requests.", ("method", "handler", "status"), registry=self.registry)
        self._http_seconds = Histogram(
            "http_request_duration_seconds", "Seconds to the end of the response.", ("method", "handler"),
            registry=self.registry, buckets=LATENCY,
        )  # fmt: skip

    def watch(self, runner: Runner) -> None:
        """Read the engine's own figures whenever metrics are asked for."""
        self.registry.register(EngineFigures(runner, self.facts, self._values))
        self.registry.register(SessionFigures(runner, self._values))
        self.registry.register(OwnFigures(self.work, self.facts, self._values))
        ProcessCollector(registry=self.registry)

    def step(self, report: StepReport) -> None:
        """After every step, in the engine's thread."""
        self.work.add_step(report, time.perf_counter())
        self._histograms["iteration_tokens_total"].observe(report.rows)
        self._step_seconds.observe(report.seconds)
        self._counters["generation_tokens"].inc(report.drawn)

    def http(self, method: str, handler: str, status: int, seconds: float) -> None:
        """After every HTTP request."""
        self._http.labels(method, handler, str(status)).inc()
        self._http_seconds.labels(method, handler).observe(seconds)

    def observe(self, name: str, value: float) -> None:
        """Add to one of vLLM's histograms."""
        self._histograms[name].observe(value)

    def meter(self, ask: Ask, stream: Stream) -> Meter:
        """Takes the times of one HTTP request."""
        return Meter(self, ask, stream)

    def finished(self, reason: str, prompt_tokens: int) -> None:
        """A request has come to its end."""
        self._success.labels(**self._values, finished_reason=reason).inc()
        self._counters["prompt_tokens"].inc(prompt_tokens)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


class Meter:
    """Times of the requests behind one HTTP request."""

    def __init__(self, metrics: Metrics, ask: Ask, stream: Stream) -> None:
        self.metrics = metrics
        self.ask = ask
        self.stream = stream
        self._prompts = {request.id: len(request.prompt) for request in stream.requests}
        self._first_s: dict[int, float] = {}
        self._last_s: dict[int, float] = {}
        metrics.observe("request_params_n", ask.choices)

    def take(self, delivery: Delivery) -> None:
        """Tokens have come."""
        for request_id in {event.request_id for event in delivery.events}:
            if request_id in self._last_s:
                between = delivery.at_s - self._last_s[request_id]
                self.metrics.observe("inter_token_latency_seconds", between)
                self.metrics.observe("time_per_output_token_seconds", between)
            else:
                self._first_s[request_id] = delivery.at_s
                self.metrics.work.add_prompt(self._prompts[request_id])
                self.metrics.observe("time_to_first_token_seconds", delivery.at_s - self.ask.arrived_s)
            self._last_s[request_id] = delivery.at_s

    def finish(self, request: Request, tokens: int, reason: str, at_s: float) -> None:
        """A request has finished."""
        first = self._first_s[request.id]
        start = self.stream.started_s.get(request.id, first)
        observe = self.metrics.observe
        observe("e2e_request_latency_seconds", at_s - self.ask.arrived_s)
        observe("request_queue_time_seconds", start - self.ask.arrived_s)
        observe("request_inference_time_seconds", at_s - start)
        observe("request_prefill_time_seconds", first - start)
        observe("request_decode_time_seconds", at_s - first)
        observe("request_prompt_tokens", len(request.prompt))
        observe("request_generation_tokens", tokens)
        observe("request_max_num_generation_tokens", request.max_tokens)
        observe("request_params_max_tokens", request.max_tokens)
        if tokens > 1:
            observe("request_time_per_output_token_seconds", (at_s - first) / (tokens - 1))
        self.metrics.finished(reason, len(request.prompt))
