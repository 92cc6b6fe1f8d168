"""Proofs as a run might have left them: made up, plausible, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import date

from twofold.bench.prices import Hosted
from twofold.bench.proof.cost import cost_of
from twofold.bench.proof.model import (
    ROLES,
    Contender,
    Interval,
    Proof,
    Quality,
    Role,
    Run,
    Sample,
    Verdict,
)
from twofold.bench.proof.statistics import figures_of, percentile, ratios_of

HOSTILE = (
    "</pre></title></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)>"
    "{{ 7 * 7 }}{% raw %}&lt;\x00\x1b[31m\ud800\u202e" + "w" * 400
)
SPEED: dict[Role, float] = {"baseline": 41.0, "candidate": 98.0}
FIRST_S: dict[Role, float] = {"baseline": 0.31, "candidate": 0.14}
MEMORY_MB: dict[Role, float] = {"baseline": 2670.0, "candidate": 1420.0}
ROUNDS, REQUESTS = 7, 24
HOSTED = {
    name: Hosted(input_per_million=old, output_per_million=new, source="a list", noted=date(2025, 6, 30))
    for name, old, new in (("cheap-llama-8b", 0.05, 0.08), ("maverick-elsewhere", 0.6, 1.7), ("dear-llama", 0.7, 1.9))
}


def complete(seed: int = 1) -> tuple[Proof, list[Sample]]:
    """Twofold against transformers, with scores, roofline and prices; proven."""
    chance = random.Random(seed)
    samples = [sample for number in range(ROUNDS) for role in ROLES for sample in answers(chance, number, role)]
    runs = runs_of(chance, samples)
    ratios = ratios_of(runs, seed)
    proof = Proof(
        created="2026-11-26T05:33:11+00:00",
        seed=seed,
        status="complete",
        command=["twofold", "prove", "meta-llama/Llama-3.2-1B-Instruct", "--against", "transformers", "--out", "a b"],
        machine=machine(),
        workload=workload(),
        contenders=contenders(),
        runs=runs,
        figures=figures_of(runs, seed),
        ratios=ratios,
        overhead={"first_token_ms": 0.9, "delay_ms": 0.08, "delay_p99_ms": 0.31, "work_per_token_ms": 0.05},
        quality=Quality(
            kind="scored", same=0.71, overlap=0.93, compared=24, kl=0.0061, kl_p99=0.071, agreement=0.964,
            scored_tokens=18_422, expected_baseline=0.917, expected_candidate=0.917,
            limits={"kl": 0.02, "agreement": 0.95, "lost": 0.02},
        ),
        roofline={"candidate": {"weight_bytes_per_s": 10.9e9, "read_limit": 17.8e9, "share": 0.61}},
        cost=cost_of(
            runs, samples, (0.714, "USD", "c7i-4xlarge: AWS, on demand (2025-06-30)"), HOSTED, 4.0e8
        ),
        verdict=Verdict(proven=True, metric="tokens_per_s", ratio=ratios["tokens_per_s"], target=2.0, reasons=()),
    )  # fmt: skip
    return proof, samples


def not_proven(seed: int = 2) -> tuple[Proof, list[Sample]]:
    """Fast enough, but not good enough, nor sure enough."""
    proof, samples = complete(seed)
    assert proof.quality is not None
    quality = replace(proof.quality, kl=0.084, kl_p99=1.31, agreement=0.871, same=0.12, expected_candidate=0.75)
    reasons = (
        "the ratio is at least 2.17x, 2.5x was to be shown",
        "the KL divergence is 0.0840 nats, at most 0.02 was allowed",
    )
    verdict = Verdict(
        proven=False, metric="tokens_per_s", ratio=proof.ratios["tokens_per_s"], target=2.5, reasons=reasons
    )
    return replace(proof, quality=quality, verdict=verdict), samples


def partial(seed: int = 3) -> tuple[Proof, list[Sample]]:
    """Cut short in the second round, with a server that failed."""
    proof, samples = complete(seed)
    kept = [run for run in proof.runs if (run.round, run.role) <= (1, "baseline")]
    samples = [sample for sample in samples if (sample.round, sample.role) <= (1, "baseline")]
    samples[5] = replace(samples[5], error="http://127.0.0.1:8000 broke the connection", text="", gaps_s=())
    verdict = Verdict(
        proven=False, metric="tokens_per_s", ratio=ratios_of(kept, seed)["tokens_per_s"], target=2.0,
        reasons=("only one whole round; at least five are needed",),
    )  # fmt: skip
    proof = replace(
        proof, status="partial", runs=kept, figures=figures_of(kept, seed), ratios=ratios_of(kept, seed),
        verdict=verdict, quality=None, cost=None, problems=("Interrupted by the user in round 2.",),
    )  # fmt: skip
    return proof, samples


def endpoint(seed: int = 4) -> tuple[Proof, list[Sample]]:
    """Two servers elsewhere: nothing is known but what comes over the wire, and no prices."""
    proof, samples = complete(seed)
    elsewhere = {"cpu_s_per_1k", "joules_per_1k", "peak_memory_mb", "start_s"}
    runs = [
        replace(run, figures={name: value for name, value in run.figures.items() if name not in elsewhere})
        for run in proof.runs
    ]
    both: dict[Role, Contender] = {
        role: Contender(
            role=role, kind="endpoint", name=f"http://{host}:8000", model="llama", settings={"stream": "yes"}
        )
        for role, host in zip(ROLES, ("old.example", "new.example"), strict=True)
    }
    quality = Quality(
        kind="answers", same=0.83, overlap=0.97, compared=24, reason="An endpoint gives no probabilities."
    )
    return replace(
        proof, runs=runs, contenders=both, figures=figures_of(runs, seed), ratios=ratios_of(runs, seed), roofline={},
        cost=None, quality=quality,
    ), samples  # fmt: skip


def hostile(seed: int = 5) -> tuple[Proof, list[Sample]]:
    """Whatever a server, a model or a file could say is an attack."""
    proof, samples = complete(seed)
    assert proof.cost is not None
    both: dict[Role, Contender] = {
        role: Contender(
            role=role, kind="endpoint", name=HOSTILE, model=HOSTILE, version=HOSTILE, weights=HOSTILE,
            settings={HOSTILE: HOSTILE, "same": "yes"}, notes=[HOSTILE],
        )
        for role in ROLES
    }  # fmt: skip
    bad_cost = replace(
        proof.cost,
        source=HOSTILE,
        notes=[HOSTILE],
        hosted={HOSTILE: 0.4},
        break_even_tokens={HOSTILE: 2e8},
        currency=HOSTILE,
    )
    attacked = [
        replace(item, text=HOSTILE + item.text, error=HOSTILE if item.request == 3 else "", finish=HOSTILE)
        for item in samples
    ]
    return replace(
        proof, created=HOSTILE, command=["twofold", HOSTILE],
        machine={"name": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE] * 20}},
        workload={"name": HOSTILE, "prompts": [HOSTILE] * 24}, contenders=both, problems=[HOSTILE], cost=bad_cost,
        overhead={HOSTILE: 1.0}, quality=Quality(kind="none", reason=HOSTILE),
        verdict=Verdict(
            proven=False, metric=HOSTILE, ratio=Interval(median=1, low=1, high=1), target=2.0, reasons=[HOSTILE],
        ),
    ), attacked  # fmt: skip


def empty(seed: int = 6) -> tuple[Proof, list[Sample]]:
    """Stopped before anything was measured."""
    proof, _ = complete(seed)
    return replace(
        proof, status="partial", runs=(), figures={}, ratios={}, overhead={}, machine={}, workload={}, quality=None,
        roofline={}, cost=None, verdict=None,
    ), []  # fmt: skip


MAKERS = {maker.__name__: maker for maker in (complete, not_proven, partial, endpoint, hostile, empty)}


def answers(chance: random.Random, number: int, role: Role) -> list[Sample]:
    """All answers of a run. Every fifth pair of pieces arrives together."""
    slow = 1.25 if number == 3 else chance.uniform(0.97, 1.04)
    made = []
    for request in range(REQUESTS):
        tokens = chance.randint(24, 64)
        step = slow * 4 / SPEED[role]
        gaps = [0.0 if chance.random() < 0.05 else step * chance.lognormvariate(0, 0.18) for _ in range(tokens - 1)]
        first = slow * FIRST_S[role] * chance.lognormvariate(0, 0.25)
        made.append(
            Sample(
                round=number, role=role, request=request, first_s=first, gaps_s=gaps, total_s=first + sum(gaps),
                prompt_tokens=180, answer_tokens=tokens, text=text_of(request, role), finish="stop",
            )
        )  # fmt: skip
    return made


def text_of(request: int, role: Role) -> str:
    """Some are the same, some part on the way."""
    text = f"The town of Quillmere has {7000 + 13 * request} inhabitants, and its mayor is Torvane."
    return text if request % 2 or role == "baseline" else text.replace("and its mayor is", "with a mayor named")


def runs_of(chance: random.Random, samples: Sequence[Sample]) -> list[Run]:
    """Figures of each run, from its answers where they say them."""
    runs = []
    for number, role in sorted({(sample.round, sample.role) for sample in samples}):
        own = [sample for sample in samples if (sample.round, sample.role) == (number, role)]
        seconds = sum(sample.total_s for sample in own) / 4
        tokens = sum(sample.answer_tokens for sample in own)
        gaps = [1e3 * gap for sample in own for gap in sample.gaps_s]
        figures = {
            "tokens_per_s": tokens / seconds,
            "requests_per_s": len(own) / seconds,
            "goodput": sum(sample.first_s < 0.3 for sample in own) / seconds,
            "first_token_ms": percentile([1e3 * sample.first_s for sample in own], 50),
            "first_token_p99_ms": percentile([1e3 * sample.first_s for sample in own], 99),
            "between_tokens_ms": percentile(gaps, 50),
            "gap_p99_ms": percentile(gaps, 99),
            "cpu_s_per_1k": 4000 / SPEED[role] * chance.uniform(0.97, 1.03),
            "peak_memory_mb": MEMORY_MB[role] * chance.uniform(0.99, 1.01),
            "start_s": 1.2 if role == "candidate" else 9.4,
        }
        runs.append(Run(round=number, role=role, seconds=seconds, figures=figures))
    return runs


def machine() -> dict[str, object]:
    """As a proof describes one."""
    return {
        "cpu": "Intel Xeon Platinum 8481C", "isa": "avx512amx", "threads": 16, "cores": 16,
        "memory_bytes": 33_427_890_176, "read_limit_bytes_per_s": 17_800_000_000,
        "system": "Linux-6.1.0-x86_64-with-glibc2.36", "python": "3.11.7",
    }  # fmt: skip


def workload() -> dict[str, object]:
    """The same."""
    return {
        "name": "chat: a few users at once, short questions", "requests": REQUESTS, "streams": 4,
        "limits": {"first_token_ms": 300.0, "between_tokens_ms": 200.0}, "repeats": False, "rounds": ROUNDS,
        "prompts": [f"How many people live in the town number {number}?" for number in range(REQUESTS)],
    }  # fmt: skip


def contenders() -> dict[Role, Contender]:
    """The same model two ways."""
    return {
        "baseline": Contender(
            role="baseline", kind="transformers", name="Llama-3.2-1B-Instruct in bf16, transformers",
            model="meta-llama/Llama-3.2-1B-Instruct",
            version="transformers 5.2.0, torch 2.13.0", weights="sha256:9b1c", weight_bytes=2_471_645_608,
            settings={"dtype": "bf16", "threads": "16", "batching": "static, 4"},
            notes=("transformers answers in batches; its pieces of text are single tokens.",),
        ),
        "candidate": Contender(
            role="candidate", kind="twofold", name="Llama-3.2-1B-Instruct in w4a8, twofold",
            model="meta-llama/Llama-3.2-1B-Instruct",
            version="twofold 0.1.0", weights="sha256:77ae", weight_bytes=702_545_920,
            settings={"dtype": "w4a8", "threads": "16", "max_num_seqs": "4", "kv_cache_dtype": "int8"},
        ),
    }  # fmt: skip
