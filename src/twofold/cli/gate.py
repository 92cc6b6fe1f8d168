"""Tests a model's int8 keys and values and writes the verdict beside its weights; for eval and quantize."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from twofold.text.rows import Row
    from twofold.weights.kv_verdict import KvVerdict


def gate_kv_cache(model: str | Path, rows: Sequence[Row], **loading: Any) -> KvVerdict:
    """Read the rows with all kinds of cache over one set of weights, and write the verdict into the model's folder.

    `loading` may name dtype, backend and threads.
    Raises SettingsError when the text is too short or the folder cannot be written, OutOfMemory when weights and
    caches do not fit.
    """
    from dataclasses import asdict
    from datetime import UTC, datetime

    from rich.console import Console

    from twofold.bench.kv_gate import gate_context, judge_kv_cache
    from twofold.bench.quality import stretch_tokens
    from twofold.cli.session import load_with_progress
    from twofold.demo import model_folder
    from twofold.errors import SettingsError
    from twofold.loading import open_model
    from twofold.weights.gguf_checkpoint import GgufCheckpoint
    from twofold.weights.kv_verdict import KvVerdict, write_verdict

    opened = open_model(model)
    if isinstance(opened.store, GgufCheckpoint):
        raise SettingsError(
            f"{model} is a GGUF file, which has no folder for a verdict. Make one of it first: "
            f"twofold pack {model} -o FOLDER"
        )
    architecture = opened.architecture
    context = gate_context(architecture.context)
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
    if llm.loaded.model.folder == model_folder():
        click.echo("the demo model is part of the package: its verdict is not kept", err=True)
    else:
        write_verdict(llm.loaded.model.folder, llm.loaded.settings.dtype, verdict)
    return verdict
