"""The measuring core: a workload through a contender once, and what its answers say."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from twofold.bench.client import Answer, BadAnswer, Body, Reading, ask_all
from twofold.bench.proof.contenders import Running
from twofold.bench.proof.model import Run, Sample
from twofold.bench.proof.statistics import percentile
from twofold.bench.proof.workload import Limits, Request, Workload
from twofold.bench.quiet import Clock, clock_with, others_share


class EnergyMeter(Protocol):
    """Joules since some moment, by domain; {} where nothing is measured."""

    def joules(self) -> Mapping[str, float]:
        """See above."""


def run_round(
    running: Running, workload: Workload, seed: int, number: int, energy: EnergyMeter | None = None
) -> tuple[Run, list[Sample]]:
    """All requests of a round, as many at once as the workload says."""
    requests = workload.requests(seed, number)
    salt = f"round {seed} {number}" if workload.repeats else ""
    bodies = [body_of(request, running, salt) for request in requests]
    cpu, joules, begun = cpu_of(running), joules_of(energy), time.perf_counter()
    clock = clock_with(cpu)
    answers = asyncio.run(everything(running, requests, bodies, workload.streams))
    seconds = time.perf_counter() - begun
    others = others_between(clock, clock_with(cpu_of(running)))
    samples = [sample(running, number, index, answer) for index, answer in enumerate(answers)]
    figures = figures_of(samples, seconds, workload.limits)
    tokens = sum(item.answer_tokens for item in samples)
    for name, before, after in (("cpu_s_per_1k", cpu, cpu_of(running)), ("joules_per_1k", joules, joules_of(energy))):
        if before is not None and after is not None and tokens:
            figures[name] = 1000 * (after - before) / tokens
    if running.server:
        figures["start_s"] = running.server.start_s
        peak = running.server.peak_bytes
        figures |= {"peak_memory_mb": peak / 1e6} if peak else {}
    errors = sum(bool(item.error) for item in samples)
    role = running.contender.role
    run = Run(round=number, role=role, seconds=seconds, figures=figures, errors=errors, others_share=others)
    return run, samples


async def everything(
    running: Running, requests: Sequence[Request], bodies: Sequence[Body], streams: int
) -> list[Answer | BadAnswer]:
    """Answers in the order of the requests; those of both routes run beside each other."""
    routes = sorted({request.route for request in requests})
    chosen = {route: [number for number, item in enumerate(requests) if item.route == route] for route in routes}
    parts = [max(1, round(streams * len(numbers) / len(requests))) for numbers in chosen.values()]
    found = await asyncio.gather(*(
        ask_all(running.endpoint, route, [bodies[number] for number in numbers], part)
        for (route, numbers), part in zip(chosen.items(), parts, strict=True)
    ))  # fmt: skip
    answers: dict[int, Answer | BadAnswer] = {}
    for numbers, own in zip(chosen.values(), found, strict=True):
        answers |= dict(zip(numbers, own, strict=True))
    return [answers[number] for number in range(len(requests))]


def body_of(request: Request, running: Running, salt: str) -> Body:
    """The request as it goes to a contender."""
    own = {"model": running.model_name, "stream": True, "stream_options": {"include_usage": True}}
    return {**request.body, **own, **(running.extra(salt) if salt else {})}


def sample(running: Running, number: int, request: int, answer: Answer | BadAnswer) -> Sample:
    """One answer as it is kept."""
    role = running.contender.role
    try:
        if isinstance(answer, BadAnswer):
            raise answer
        found: Reading = answer.read()
    except BadAnswer as error:
        return Sample(round=number, role=role, request=request, error=str(error))
    return Sample(
        round=number,
        role=role,
        request=request,
        first_s=found.first_s,
        gaps_s=found.gaps_s,
        total_s=found.total_s,
        prompt_tokens=found.prompt_tokens,
        answer_tokens=found.answer_tokens,
        text=found.text,
        finish=found.finish,
    )


def figures_of(samples: Sequence[Sample], seconds: float, limits: Limits) -> dict[str, float]:
    """Figures of a run by the names of METRICS; none of times when no request was answered."""
    good = [item for item in samples if not item.error]
    if not good:
        return {}
    firsts = [1000 * item.first_s for item in good]
    gaps = [1000 * gap for item in good for gap in item.gaps_s]
    paces = [1000 * (item.total_s - item.first_s) / (item.answer_tokens - 1) for item in good if item.answer_tokens > 1]
    figures = {
        "tokens_per_s": sum(item.answer_tokens for item in good) / seconds,
        "requests_per_s": len(good) / seconds,
        "goodput": sum(is_in_time(item, limits) for item in good) / seconds,
        "first_token_ms": percentile(firsts, 50),
        "first_token_p99_ms": percentile(firsts, 99),
    }
    figures |= {"between_tokens_ms": percentile(paces, 50)} if paces else {}
    return figures | ({"gap_p99_ms": percentile(gaps, 99)} if gaps else {})


def is_in_time(item: Sample, limits: Limits) -> bool:
    """Whether a user would not have noticed a wait."""
    return item.first_s <= limits.first_s and percentile(item.gaps_s, 99) <= limits.between_s


def cpu_of(running: Running) -> float | None:
    """Seconds of work of a contender's process."""
    return running.server.cpu_s if running.server else None


def others_between(before: Clock | None, after: Clock | None) -> float | None:
    """Share of all cores that neither the client nor the contender used; None where that is not known."""
    return others_share(before, after, os.cpu_count() or 1) if before and after else None


def joules_of(energy: EnergyMeter | None) -> float | None:
    """Joules of all domains together; None where there are none."""
    found = energy.joules() if energy else {}
    return sum(found.values()) if found else None
