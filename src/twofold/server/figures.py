"""Metrics that are read only when asked for: the engine's own figures under vLLM's names, ours under twofold:."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from twofold.engine.runner import Runner
from twofold.server.cost import Price, phase_costs, unit_costs
from twofold.server.energy import Energy
from twofold.server.facts import Facts
from twofold.server.work import Work

Samples = Iterable[tuple[Mapping[str, str], float]]


class Labelled:
    """Makes families whose samples all carry the same labels; a sample is its further labels and its value."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = dict(values)

    def gauge(self, name: str, text: str, samples: Samples) -> Metric:
        """A gauge."""
        family = GaugeMetricFamily(name, text)
        for labels, value in samples:
            family.add_sample(name, {**self.values, **labels}, value)
        return family

    def counter(self, name: str, text: str, samples: Samples) -> Metric:
        """A counter; `name` is without _total."""
        family = CounterMetricFamily(name, text)
        for labels, value in samples:
            family.add_sample(f"{name}_total", {**self.values, **labels}, value)
        return family


class EngineFigures(Collector):
    """What the engine keeps itself, under vLLM's names and their older ones."""

    def __init__(self, runner: Runner, facts: Facts, values: Mapping[str, str]) -> None:
        self.runner = runner
        self.facts = facts
        self.make = Labelled(values)

    def collect(self) -> Iterator[Metric]:
        """Called for every scrape, in the server's thread; reads plain numbers only."""
        scheduler, blocks = self.runner.engine.scheduler, self.runner.engine.blocks
        running = len(scheduler.running)
        used = used_share(self.runner)
        gauges = {
            "num_requests_running": ("Requests in the batch.", running),
            "num_requests_waiting": ("Requests that wait.", max(0, self.runner.live - running)),
            "kv_cache_usage_perc": ("Share of the cache's blocks in use, 0 to 1.", used),
            "gpu_cache_usage_perc": ("The same under its old name.", used),
        }
        counters = {
            "num_preemptions": ("Requests sent back to wait because blocks ran out.", scheduler.preemptions),
            "prefix_cache_queries": ("Tokens looked up in the prefix cache.", blocks.asked_tokens),
            "prefix_cache_hits": ("Tokens found in the prefix cache.", blocks.known_tokens),
            "gpu_prefix_cache_queries": ("The same under its old name.", blocks.asked_tokens),
            "gpu_prefix_cache_hits": ("The same under its old name.", blocks.known_tokens),
        }
        for name, (text, value) in gauges.items():
            yield self.make.gauge(f"vllm:{name}", text, [({}, value)])
        for name, (text, value) in counters.items():
            yield self.make.counter(f"vllm:{name}", text, [({}, value)])
        yield self.make.gauge("vllm:cache_config_info", "How the cache is laid out.", [(self.cache_config(), 1)])

    def cache_config(self) -> dict[str, str]:
        """Labels of vllm:cache_config_info."""
        engine = self.runner.engine
        return {
            "block_size": str(engine.blocks.layout.block_size),
            "num_gpu_blocks": str(engine.blocks.layout.global_blocks),
            "num_cpu_blocks": "0",
            "cache_dtype": self.facts.build.get("kv_cache_dtype", ""),
            "enable_prefix_caching": str(engine.limits.prefix_cache),
        }


class SessionFigures(Collector):
    """Kept conversations, where the server keeps any."""

    def __init__(self, runner: Runner, values: Mapping[str, str]) -> None:
        self.runner = runner
        self.make = Labelled(values)

    def collect(self) -> Iterator[Metric]:
        """Called for every scrape; reads plain numbers only."""
        sessions = self.runner.sessions
        if sessions is None:
            return
        gauges = {
            "sessions": ("Kept conversations.", len(sessions.book.sessions)),
            "session_bytes": ("Bytes their blocks take on the disk.", sessions.files.size_bytes),
            "session_limit_bytes": ("What they may take.", sessions.limits.most_bytes),
        }
        counters = {
            "session_recalled_tokens": ("Prompt tokens that came back from files.", sessions.recalled_tokens),
            "session_dropped_blocks": ("Blocks not written because the disk was too slow.", sessions.dropped_blocks),
            "session_failed_files": ("Files not written, or found damaged.", sessions.files.failures),
        }
        for name, (text, value) in gauges.items():
            yield self.make.gauge(f"twofold:{name}", text, [({}, value)])
        for name, (text, value) in counters.items():
            yield self.make.counter(f"twofold:{name}", text, [({}, value)])


def used_share(runner: Runner) -> float:
    """Share of the cache's blocks in use, 0 to 1."""
    blocks = runner.engine.blocks
    return 1.0 - len(blocks.free_global) / blocks.layout.global_blocks


def tasks() -> Samples:
    """How many tasks the event loop has that this is called in."""
    try:
        return [({}, len(asyncio.all_tasks()))]
    except RuntimeError:  # there is no loop here
        return []


class OwnFigures(Collector):
    """What this server measures beyond vLLM's metrics."""

    def __init__(self, work: Work, facts: Facts, values: Mapping[str, str]) -> None:
        self.work = work
        self.facts = facts
        self.make = Labelled(values)
        self.energy = Energy()

    def collect(self) -> Iterator[Metric]:
        """Called for every scrape."""
        now_s = time.perf_counter()
        yield self.make.gauge("twofold:build_info", "What is running.", [(self.facts.build, 1)])
        yield from self.starting()
        seconds = self.work.phase_seconds(now_s)
        text = "Seconds the engine spent on prompts (input), on answers (output) and on nothing (idle)."
        yield self.make.counter("twofold:engine_seconds", text, by_phase(seconds))
        yield from self.memory()
        yield from self.joules()
        yield self.make.gauge("twofold:tasks", "Tasks of the event loop; more without requests is a leak.", tasks())
        if self.facts.expert_counts is not None:
            yield self.experts()
        if self.facts.expert_uses is not None:
            yield from self.offloading(*self.facts.expert_uses())
        if self.facts.price is not None:
            yield from self.costs(self.facts.price, now_s)

    def starting(self) -> Iterator[Metric]:
        """Seconds of the start."""
        phases = self.facts.phases
        yield self.make.gauge("twofold:start_seconds", "Seconds of each phase of the start.", by_phase(phases))
        load_s = sum(phases.get(name, 0.0) for name in ("config", "tokenizer", "weights"))
        yield self.make.gauge("twofold:load_seconds", "Seconds loading the model took.", [({}, load_s)])

    def memory(self) -> Iterator[Metric]:
        """Weights read while decoding, beside what this machine reads at most."""
        read, seconds = self.work.decode_read_bytes, self.work.decode_seconds
        text = "Bytes of weights that steps without prompts are expected to have read."
        yield self.make.counter("twofold:decode_read_bytes", text, [({}, read)])
        yield self.make.counter("twofold:decode_seconds", "Seconds of steps without prompts.", [({}, seconds)])
        limit, rate = self.facts.read_limit(), self.work.decode_bytes_per_s
        if limit is None:
            return
        text = "Bytes per second this machine read from a buffer as large as the weights, in the first quiet moment."
        yield self.make.gauge("twofold:memory_read_limit_bytes_per_second", text, [({}, limit)])
        if rate is not None:
            text = "Share of that limit at which the last steps without prompts read weights."
            yield self.make.gauge("twofold:memory_limit_share", text, [({}, rate / limit)])

    def joules(self) -> Iterator[Metric]:
        """Measured energy, or why there is none."""
        joules = self.energy.joules()
        reason = {"reason": self.energy.reason}
        text = "1 when energy is measured; 0 with the reason when it is not."
        yield self.make.gauge("twofold:energy_measured", text, [(reason, 0 if self.energy.reason else 1)])
        if joules:
            text = "Joules the whole processor used, as it counts them."
            yield self.make.counter(
                "twofold:energy_joules", text, [({"domain": name}, value) for name, value in joules.items()]
            )

    def experts(self) -> Metric:
        """How unevenly the experts of each layer are used."""
        assert self.facts.expert_counts is not None, "the caller has looked"
        text = "Tokens of the busiest expert over the mean of its layer, since the start; 1 is even."
        ratios = enumerate(unevenness(counts) for counts in self.facts.expert_counts())
        samples = [({"layer": str(layer)}, ratio) for layer, ratio in ratios if ratio is not None]
        return self.make.gauge("twofold:expert_load_max_to_mean", text, samples)

    def offloading(self, hits: int, misses: int, copied_bytes: int) -> Iterator[Metric]:
        """How often experts in the host's memory had to be fetched."""
        counters = {
            "expert_cache_hits": ("Experts that were on the device when a step needed them.", hits),
            "expert_cache_misses": ("Experts that were copied to the device because a step needed them.", misses),
            "expert_copied_bytes": ("Bytes of these copies.", copied_bytes),
        }
        for name, (text, value) in counters.items():
            yield self.make.counter(f"twofold:{name}", text, [({}, value)])

    def costs(self, price: Price, now_s: float) -> Iterator[Metric]:
        """Money, in the price's currency."""
        currency = {"currency": price.currency}
        yield self.make.gauge("twofold:price_per_hour", "Price of this machine.", [(currency, price.per_hour)])
        text = "Cost since the start of prompts (input), answers (output) and waiting (idle)."
        costs = phase_costs(self.work, price, now_s)
        yield self.make.counter("twofold:cost", text, [({**currency, "phase": name}, costs[name]) for name in costs])
        text = "Cost of a million tokens: full as if the engine never waited, measured with idle time included."
        samples = [
            ({**currency, "phase": unit.phase, "utilisation": unit.utilisation}, unit.per_million)
            for unit in unit_costs(self.work, price, now_s)
        ]
        yield self.make.gauge("twofold:cost_per_million_tokens", text, samples)


def by_phase(values: Mapping[str, float]) -> Samples:
    """Samples labelled with their phase."""
    return [({"phase": name}, value) for name, value in values.items()]


def unevenness(counts: Iterable[int]) -> float | None:
    """Largest over mean; None when there is nothing yet."""
    found = list(counts)
    total = sum(found)
    return max(found) * len(found) / total if total else None
