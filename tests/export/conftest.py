"""Exports, written once per session."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from twofold.exporting import export_model

if not (find_spec("onnx") and find_spec("onnxruntime")):
    collect_ignore_glob = ["test_*.py"]  # pip install 'twofold[export]'

Exported = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="session")
def exported(
    tmp_path_factory: pytest.TempPathFactory, toy_folder: Callable[[str], tuple[Path, Any]]
) -> Callable[..., tuple[Path, Path]]:
    """exported(name, target, dtype): the checkpoint's folder and its export; "demo" or a toy."""
    made: dict[tuple[str, str, str], tuple[Path, Path]] = {}

    def get(name: str, target: str, dtype: Any = "f32") -> tuple[Path, Path]:
        key = (name, target, dtype)
        if key not in made:
            from twofold.demo import model_folder

            checkpoint = model_folder() if name == "demo" else toy_folder(name)[0]
            output = tmp_path_factory.mktemp("export") / f"{name}-{target}-{dtype}"
            made[key] = (checkpoint, export_model(checkpoint, output, target, dtype))
        return made[key]

    return get
