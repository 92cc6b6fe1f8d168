"""The law of the rooms: who may import whom. Every room is listed; an unlisted one fails."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "twofold"

TWOFOLD = {
    "errors": set(),
    "config": {"errors", "ops.types"},
    "ops": {"errors"},
    "models": {"ops.types", "ops.interface", "errors"},
    "backends.cpu": {"ops", "errors"},
    "backends.gpu": {"ops", "errors"},
    "weights": {"ops", "errors"},
    "quant": {"ops", "errors", "weights"},
    "export": {"ops", "models", "weights", "errors"},
    "engine": {"ops.types", "errors", "config"},
    "text": {"errors"},
    "demo": set(),
    "server": {"engine", "ops.types", "text", "errors", "config"},
    "bench": {
        "api",
        "backends.cpu.machine",
        "config",
        "demo",
        "errors",
        "loading",
        "ops",
        "text",
        "weights.fingerprint",
    },
    "migrate": {"api", "bench", "text", "errors"},
    "api": {"models", "backends", "weights", "quant", "export", "engine", "text", "config", "errors", "ops", "demo"},
}
THIRD_PARTY = {
    "ops": {"numpy", "ml_dtypes"},
    "backends.cpu": {"numpy", "ml_dtypes"},
    "backends.gpu": {"numpy", "torch", "triton"},
    "weights": {"numpy", "ml_dtypes", "huggingface_hub"},
    "quant": {"numpy"},
    "export": {"numpy", "onnx", "onnxruntime", "google"},
    "engine": {"numpy"},
    "text": {"tokenizers", "jinja2"},
    "api": {"numpy"},
    "bench": {"numpy", "lm_eval", "jinja2"},
    "server": {"starlette", "uvicorn", "msgspec", "prometheus_client", "llguidance", "anyio"},
    "cli": {"click", "rich"},
}
NUMPY_FREE = ("engine/request.py", "engine/plan.py", "engine/scheduler.py", "engine/ahead.py", "engine/blocks.py")
ROOT_FILES = {
    "errors.py": "errors",
    "config.py": "config",
    "api.py": "api",
    "loading.py": "api",
    "model_files.py": "api",
    "blueprint.py": "api",
    "quantising.py": "api",
    "exporting.py": "api",
    "graphs.py": "api",
    "verifying.py": "api",
    "quantised_folder.py": "api",
    "choosing.py": "api",
    "damage.py": "api",
    "layerwise.py": "api",
    "folding.py": "api",
    "drafting.py": "api",
    "phases.py": "api",
    "placing.py": "api",
    "shares.py": "api",
    "offloading.py": "api",
    "networks.py": "api",
    "leading.py": "api",
    "following.py": "api",
    "rank_frames.py": "api",
    "keeping.py": "api",
    "__init__.py": "package",
}
FILES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


def room_of(name: str) -> str:
    parts = name.split("/")
    if len(parts) == 1:
        return ROOT_FILES[name]
    return ".".join(parts[:2]) if parts[0] == "backends" and len(parts) > 2 else parts[0]


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_allowed(name: str, room: str, allowed: set[str]) -> bool:
    inner = name.removeprefix("twofold.")
    own = {file.removesuffix(".py") for file, its_room in ROOT_FILES.items() if its_room == room}
    return any(inner == item or inner.startswith(item + ".") for item in {*allowed, room, *own})


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_only_what_its_room_may(name: str) -> None:
    room = room_of(name)
    for module in imported(ast.parse((SOURCE / name).read_text())):
        top = module.split(".")[0]
        if top == "twofold":
            if room not in ("cli", "package", "backends"):
                assert room in TWOFOLD, f"{name}: room {room} is not listed"
                assert is_allowed(module, room, TWOFOLD[room]), f"{name} may not import {module}"
            assert not module.startswith("twofold.cli") or room == "cli", f"{name} imports the command line"
        elif top not in sys.stdlib_module_names:
            allowed = THIRD_PARTY.get(room, set())
            assert top in allowed, f"{name} may not import {module}"
            assert top != "numpy" or name not in NUMPY_FREE, f"{name} must work without numpy"


def test_importing_twofold_loads_no_heavy_package() -> None:
    code = (
        "import sys, twofold; "
        "print([n for n in ('torch', 'numpy', 'tokenizers', 'huggingface_hub') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_using_the_api_loads_no_extra() -> None:
    code = (
        "import sys, twofold; twofold.LLM; "
        "print([n for n in ('torch', 'transformers', 'huggingface_hub', 'click', 'rich') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_public_names_are_these() -> None:
    import twofold

    assert sorted(twofold.__all__) == ["Completion", "LLM", "Piece", "SamplingParams", "Settings", "TwofoldError"]
    assert all(hasattr(twofold, name) for name in twofold.__all__)
