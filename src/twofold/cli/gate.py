"""Tests a model's int8 keys and values and writes the verdict beside its weights; for eval and quantize."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twofold.text.rows import Row
    from twofold.weights.kv_verdict import KvVerdict


def gate_kv_cache(model: str | Path, rows: Sequence[Row], **loading: Any) -> KvVerdict:
    """Load the model once, read the rows with all kinds of cache, and write the verdict into its folder.

    Raises SettingsError when the text is too short or the folder cannot be written, OutOfMemory when weights and
    caches do not fit.
    """
    from dataclasses import asdict
    from datetime import UTC, datetime

    from rich.console import Console

    from twofold.bench.kv_gate import gate_context, judge_kv_cache
    from twofold.bench.quality import stretch_tokens
    from twofold.cli.session import load_with_progress
    from twofold.loading import open_model
    from twofold.weights.kv_verdict import KvVerdict, write_verdict

    architecture = open_model(model).architecture
    context = gate_context(min(architecture.context, loading.pop("context", None) or architecture.context))
    llm = load_with_progress(
        str(model),
        kv_cache_dtype="f32",
        context=context,
        cache_tokens=2 * context,  # room for the other two caches is asked for; pages never used cost nothing
        step_tokens=stretch_tokens(architecture.vocabulary),
        max_sequences=1,
        **loading,
    )
    with Console(stderr=True).status("testing int8 keys and values") as status:
        found = judge_kv_cache(llm, rows, lambda done: status.update(f"int8 keys and values: {done:,} tokens read"))
    date = datetime.now(UTC).isoformat(timespec="seconds")
    verdict = KvVerdict(passed=found.passed, date=date, **asdict(found))
    write_verdict(llm.loaded.model.folder, llm.loaded.settings.dtype, verdict)
    return verdict
