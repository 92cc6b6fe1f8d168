"""Sessions of a loaded model: which bits of keys and values may be used again, and which are another model's."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from twofold.api import LLM
from twofold.engine.sessions import SessionLimits, Sessions
from twofold.loading import Loaded
from twofold.weights.fingerprint import fingerprint


def open_sessions(llm: LLM, folder: Path, limits: SessionLimits | None = None) -> Sessions:
    """Sessions of a model in a folder, with those an earlier process kept there. Raises SettingsError."""
    return Sessions(llm.engine, folder, identity_of(llm.loaded), limits)


def identity_of(loaded: Loaded) -> dict[str, str]:
    """Everything that the bits of a block depend on, beside its tokens."""
    files, settings = loaded.model.files, loaded.settings
    return {
        "twofold": version("twofold"),
        "model": str(files.path.resolve().name),
        "weights": fingerprint(files.config, files.weight_files(), with_times=True),
        "dtype": settings.dtype,
        "kv_cache_dtype": settings.kv_cache_dtype,
        "backend": settings.backend,
        "kernels": str(getattr(loaded.ops, "isa", "")),
        "block_size": str(loaded.layout.block_size),
        **({} if settings.ranks == 1 else {"ranks": str(settings.ranks)}),
    }
