"""The figures of the demo model's card: loss, exact answers, expert load, and what quantisation costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twofold.api import LLM
from twofold.bench.quality import Quality, exact_match, score, texts_of
from twofold.demo import data_folder, heldout_file
from twofold.text.rows import Row, read_lines

REFERENCE_DTYPE = "bf16"


def measure_demo(
    dtypes: Sequence[str], questions: int, threads: int | None, progress: Callable[[str, int], None]
) -> list[Quality]:
    """Measure the demo model at each dtype on its held-out data; KL is against bf16."""
    asked = read_lines(data_folder() / "evaluation.jsonl")[:questions]
    reference = LLM("demo", dtype=REFERENCE_DTYPE, threads=threads)
    return [measure(dtype, asked, reference, threads, progress) for dtype in dtypes]


def measure(
    dtype: str, asked: Sequence[Row], reference: LLM, threads: int | None, progress: Callable[[str, int], None]
) -> Quality:
    """Figures of one dtype."""
    llm = LLM("demo", dtype=dtype, threads=threads)
    scored = score(llm, texts_of(llm, read_lines(heldout_file())), reference)
    exact = exact_match(llm, asked, lambda done: progress(dtype, done))
    return Quality(dtype=dtype, **scored.figures(), exact=exact.pop("all"), exact_by_category=exact)
