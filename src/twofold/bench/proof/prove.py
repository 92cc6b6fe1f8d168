"""The whole of a proof: both contenders up, rounds in turns, quality, cost, verdict, bundle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from twofold.bench.machine import describe_machine
from twofold.bench.prices import Hosted
from twofold.bench.proof import closeness
from twofold.bench.proof.bundle import Bundle
from twofold.bench.proof.contenders import Running, Spec, memory_pace, running
from twofold.bench.proof.cost import cost_of
from twofold.bench.proof.measure import EnergyMeter, run_round
from twofold.bench.proof.model import ROLES, Proof, Quality, Role, Run, Sample
from twofold.bench.proof.overhead import client_overhead, warnings
from twofold.bench.proof.report import render
from twofold.bench.proof.statistics import figures_of, others_of, ratios_of
from twofold.bench.proof.verdict import Demands, judge
from twofold.bench.proof.workload import Workload
from twofold.bench.quiet import LOUD
from twofold.errors import BenchError

WARM_UP = -1
"""The round that is not counted."""
SHOWN = 8
"""So many prompts are kept for the report."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be proven. price: per hour, currency, source; hosted: prices of others in that currency."""

    specs: Mapping[Role, Spec]
    workload: Workload
    demands: Demands
    rounds: int
    seed: int
    command: Sequence[str]
    price: tuple[float, str, str] | None = None
    hosted: Mapping[str, Hosted] = field(default_factory=dict)
    monthly_tokens: float | None = None


@dataclass
class Course:
    """What has been seen so far."""

    runs: list[Run] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    overhead: dict[str, float] = field(default_factory=dict)
    started: dict[Role, Running] = field(default_factory=dict)
    quality: Quality | None = None
    roofline: dict[Role, dict[str, float]] = field(default_factory=dict)


def prove(plan: Plan, bundle: Bundle, energy: EnergyMeter | None, tell: Callable[[str], None]) -> Proof:
    """Run it and write the bundle; one that is cut short is written as far as it came, and then the error goes on.

    `tell` hears what happens. Raises BenchError when a contender does not come up or answers nothing.
    """
    course = Course()
    bundle.keep_prompts(plan.workload.recorded)
    try:
        measure(plan, bundle, course, energy, tell)
        judge_quality(plan, course, tell)
    except BaseException as error:
        course.problems.append(f"The proof was cut short: {error or type(error).__name__}")
        finish(plan, bundle, course, "partial")
        raise
    return finish(plan, bundle, course, "complete")


def measure(
    plan: Plan, bundle: Bundle, course: Course, energy: EnergyMeter | None, tell: Callable[[str], None]
) -> None:
    """All rounds; who goes first changes from round to round."""
    tell("measuring the client itself")
    course.overhead = client_overhead(plan.workload.streams, bundle.logs)
    with contextlib.ExitStack() as stack:
        for role in ROLES:
            tell(f"starting the {role}")
            course.started[role] = stack.enter_context(running(plan.specs[role], bundle.logs))
        for role in ROLES:
            tell(f"warming up the {role}")
            check(run_round(course.started[role], plan.workload, plan.seed, WARM_UP)[1], course.started[role])
        for number in range(plan.rounds):
            for role in ROLES if number % 2 == 0 else ROLES[::-1]:
                run, samples = run_round(course.started[role], plan.workload, plan.seed, number, energy)
                check(samples, course.started[role])
                course.runs.append(run)
                course.samples += samples
                bundle.add(samples)
                rate = run.figures.get("tokens_per_s", 0.0)
                tell(f"round {number + 1} of {plan.rounds}, {role}: {rate:,.1f} tokens/s")
        paces = {role: asyncio.run(memory_pace(item)) for role, item in course.started.items()}
        course.roofline = {role: pace for role, pace in paces.items() if pace}


def check(samples: Sequence[Sample], contender: Running) -> None:
    """Raise BenchError when nothing at all was answered: going on would measure nothing."""
    if samples and all(item.error for item in samples):
        raise BenchError(f"the {contender.contender.role} answered no request: {samples[0].error}")


def judge_quality(plan: Plan, course: Course, tell: Callable[[str], None]) -> None:
    """Answers first, probabilities where both have them."""
    tell("comparing answers")
    quality = closeness.compare_answers(plan.workload, plan.seed, course.samples)
    rows = closeness.rows_of(plan.workload, plan.seed, course.samples)
    course.quality = closeness.scored(quality, plan.specs, rows, tell)


def finish(plan: Plan, bundle: Bundle, course: Course, status: Any) -> Proof:
    """Put everything together and write it."""
    figures = figures_of(course.runs, plan.seed)
    ratios = ratios_of(course.runs, plan.seed)
    quality = course.quality or Quality(kind="none", reason="the proof was cut short")
    quality = replace(quality, limits=plan.demands.of_quality(quality))
    proof = Proof(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=plan.seed,
        status=status,
        command=plan.command,
        machine=describe_machine(),
        workload={
            **plan.workload.describe(),
            "rounds": plan.rounds,
            "prompts": plan.workload.openings(plan.seed, SHOWN),
        },
        contenders={role: item.contender for role, item in course.started.items()},
        runs=course.runs,
        figures=figures,
        ratios=ratios,
        overhead=course.overhead,
        quality=quality,
        roofline=course.roofline,
        cost=cost_of(course.runs, course.samples, plan.price, plan.hosted, plan.monthly_tokens) if plan.price else None,
        verdict=judge(plan.demands, ratios, quality, course.runs),
        problems=[*course.problems, *warnings(course.overhead, figures), *notes_of(plan, course)],
    )
    if status == "partial" and proof.verdict:
        proof = replace(proof, verdict=replace(proof.verdict, proven=False, reasons=tuple(course.problems)))
    bundle.finish(proof, render(proof, course.samples))
    return proof


def notes_of(plan: Plan, course: Course) -> list[str]:
    """What a reader must know about how it was measured."""
    others = others_of(course.runs)
    found = [f"Other programs took {others:.0%} of this machine's cores meanwhile."] if others > LOUD else []
    if plan.workload.repeats and any(item.contender.kind != "twofold" for item in course.started.values()):
        found.append(
            "Recorded traffic repeats in every round: a server that remembers prompts knows them from the second round "
            "on. twofold was kept from that (cache_salt); other servers may not have been."
        )
    if len({item.endpoint.url for item in course.started.values()}) < len(course.started):
        found.append(
            "Both contenders are one server: who asks second in a round finds the first one's prompts in its memory."
        )
    counted = {item.role for item in course.samples if not item.error and not item.prompt_tokens}
    found += [f"The {role} does not count its tokens; pieces of text were counted instead." for role in sorted(counted)]
    return found
