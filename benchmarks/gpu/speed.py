"""Decode and prefill of networks with random weights, each beside the device's measured limits."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu import networks
from benchmarks.gpu.limits import seconds
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.models.network import Architecture
from twofold.ops.cost import expected_read_bytes

PROMPT = 64
STEPS = 24


def decode(
    dtype: str, layers: int | None, streams: tuple[int, ...], limits: dict[str, float], context: int = 256
) -> Iterator[dict[str, Any]]:
    """Steps of so many sequences: milliseconds on the device, tokens per second through the engine."""
    architecture = networks.network(networks.SCOUT, layers)
    weights = networks.random_weights(architecture, dtype, "cuda")
    ops = networks.build_ops("cuda")
    counted = networks.count(architecture, dtype)
    for count in streams:
        engine = networks.build_engine(ops, architecture, weights, count, context)
        ops.runs_ahead = False
        waiting = run_streams(engine, count, architecture)
        ops.runs_ahead = True
        found = run_streams(engine, count, architecture)
        graph = next(iter(engine.forward._captures.values()), None) if hasattr(engine.forward, "_captures") else None
        device_s = seconds(graph.graph.replay, repeats=20) if graph else found["step_s"]
        size = expected_read_bytes(counted, architecture.expert_count, count)
        yield {
            "network": "scout",
            "layers": architecture.layers,
            "dtype": dtype,
            "streams": count,
            "device_ms": device_s * 1e3,
            "step_ms": found["step_s"] * 1e3,
            "step_ms_one_by_one": waiting["step_s"] * 1e3,
            "tokens_per_s": count / found["step_s"],
            "weight_bytes": size,
            "share_of_read_limit": size / device_s / limits["read_bytes_per_s"],
        }
        del engine, graph
        free()


def free() -> None:
    """Give back what nobody holds; an engine and what it runs hold each other."""
    gc.collect()
    torch.cuda.empty_cache()


def by_layers(dtype: str, few: int, many: int, limits: dict[str, float]) -> Iterator[dict[str, Any]]:
    """One stream through two numbers of layers, and what their difference says of all 48 of them.

    A card that does not hold the whole network in this dtype still shows what each layer costs, and the rest.
    """
    found = [next(decode(dtype, layers, (1,), limits)) for layers in (few, many)]
    yield from found
    layer_ms = (found[1]["device_ms"] - found[0]["device_ms"]) / (many - few)
    layer_bytes = (found[1]["weight_bytes"] - found[0]["weight_bytes"]) / (many - few)
    whole = networks.network(networks.SCOUT).layers
    whole_ms = found[0]["device_ms"] + (whole - few) * layer_ms
    yield {
        "network": "scout",
        "layers": whole,
        "dtype": dtype,
        "streams": 1,
        "from_layers": [few, many],
        "layer_ms": layer_ms,
        "layer_share_of_read_limit": layer_bytes / (layer_ms / 1e3) / limits["read_bytes_per_s"],
        "expected_device_ms": whole_ms,
        "expected_tokens_per_s": 1e3 / whole_ms,
    }


def profile(dtype: str, streams: int, prompt: int | None = None) -> Iterator[dict[str, Any]]:
    """Where a step of four layers spends its time on the device: the kernels that take most of it."""
    architecture = networks.network(networks.SCOUT, 4)
    ops = networks.build_ops("cuda")
    weights = networks.random_weights(architecture, dtype, "cuda")
    engine = networks.build_engine(ops, architecture, weights, streams, 4096 if prompt else 256)
    engine.forward = architecture.bind(weights)
    params = SamplingParams(temperature=0.0, max_tokens=1 if prompt else 12, ignore_eos=True)
    for _ in range(2 if prompt else streams):
        engine.add(list(range(prompt or PROMPT)), params)
    for _ in range(1 if prompt else 4):
        engine.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as record:
        engine.step()
        torch.cuda.synchronize()
    events = sorted(record.key_averages(), key=lambda event: -event.self_device_time_total)
    for event in events[:22]:
        yield {
            "dtype": dtype,
            "streams": streams,
            "prompt": prompt or 0,
            "kernel": event.key[:60],
            "calls": event.count,
            "us": event.self_device_time_total,
        }


def run_streams(engine: Engine, count: int, architecture: Architecture) -> dict[str, float]:
    """Median time of a decoding step of `count` sequences."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(count):
        prompt = torch.randint(0, architecture.vocabulary, (PROMPT,), generator=generator).tolist()
        engine.add(prompt, SamplingParams(temperature=0.0, max_tokens=STEPS + 8, ignore_eos=True))
    times: list[float] = []
    while not engine.is_idle:
        start = time.perf_counter()
        engine.step()
        plan = engine.latest
        if plan is not None and plan.reading_rows == 0 and plan.decoding == count:
            times.append(time.perf_counter() - start)
    return {"step_s": statistics.median(times[3:] or times)}


def prefill(
    dtype: str, layers: int | None, lengths: tuple[int, ...], limits: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """One prompt read in one step: milliseconds, tokens per second, share of the measured bf16 product."""
    architecture = networks.network(networks.SCOUT, layers)
    weights = networks.random_weights(architecture, dtype, "cuda")
    ops = networks.build_ops("cuda")
    counted = networks.count(architecture, dtype)
    head = architecture.vocabulary * architecture.hidden
    for length in lengths:
        engine = networks.build_engine(ops, architecture, weights, 1, length + 64, step_tokens=length)
        generator = torch.Generator().manual_seed(5)
        prompt = torch.randint(0, architecture.vocabulary, (length,), generator=generator).tolist()
        times = []
        for _ in range(4):
            engine.add(prompt, SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True))
            torch.cuda.synchronize()
            start = time.perf_counter()
            while not engine.is_idle:
                engine.step()
            times.append(time.perf_counter() - start)
        step_s = min(times[1:])
        parameters = counted.read_parameters_per_token - head - architecture.hidden
        shape = architecture.cache_shape
        config = architecture.config
        attention = 2 * 2 * config.heads * shape.head_size * architecture.layers * length * length / 2
        operations = 2 * parameters * length + attention
        yield {
            "network": "scout",
            "layers": architecture.layers,
            "dtype": dtype,
            "prompt": length,
            "step_ms": step_s * 1e3,
            "tokens_per_s": length / step_s,
            "ops_per_s": operations / step_s,
            "share_of_bf16_limit": operations / step_s / limits["bf16_ops_per_s"],
        }
        del engine
        free()
