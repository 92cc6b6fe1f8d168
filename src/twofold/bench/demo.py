"""The figures of the demo model's card: loss, exact answers, expert load, and what quantisation costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twofold.api import LLM
from twofold.bench.quality import Quality, Scored, divergence, exact_match, read_lines, score
from twofold.demo import data_folder

REFERENCE_DTYPE = "bf16"


def measure_demo(
    dtypes: Sequence[str], questions: int, threads: int | None, progress: Callable[[str, int], None]
) -> list[Quality]:
    """Measure the demo model at each dtype on its held-out data; KL is against bf16."""
    asked = read_lines(data_folder() / "evaluation.jsonl")[:questions]
    rows = read_lines(data_folder() / "heldout.jsonl")
    with_reference = LLM("demo", dtype=REFERENCE_DTYPE, threads=threads)
    reference = score(with_reference, rows)
    return [measure(dtype, asked, rows, reference, threads, progress) for dtype in dtypes]


def measure(
    dtype: str,
    asked: Sequence[dict[str, object]],
    rows: Sequence[dict[str, object]],
    reference: Scored,
    threads: int | None,
    progress: Callable[[str, int], None],
) -> Quality:
    """Figures of one dtype."""
    llm = LLM("demo", dtype=dtype, threads=threads)
    scored = reference if dtype == REFERENCE_DTYPE else score(llm, rows)
    mean, p99, agreement = divergence(reference, scored)
    exact = exact_match(llm, asked, lambda done: progress(dtype, done))
    return Quality(
        dtype=dtype,
        loss=float(scored.losses.mean()),
        exact=exact.pop("all"),
        exact_by_category=exact,
        least_load=float(scored.load.min()),
        most_load=float(scored.load.max()),
        kl_mean=mean,
        kl_p99=p99,
        agreement=agreement,
    )
