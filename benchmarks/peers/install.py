"""Peers from the package index, pinned, each in a folder of its own under build/peers."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.protocol import EngineFailed

LLAMA_CPP = "0.3.36"
"""Version of llama-cpp-python; its source distribution carries all of llama.cpp."""
ONNX_BUILDER = "0.18.0"
TARGETS = ("llama-batched-bench", "llama-quantize")
SWITCHES = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_NATIVE": "ON",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_OPENSSL": "OFF",
}
SERVER_SWITCHES = {"LLAMA_BUILD_SERVER": "ON", "LLAMA_BUILD_UI": "OFF", "LLAMA_USE_PREBUILT_UI": "OFF"}
"""Its chat page would be downloaded."""
TILES = Path("ggml/src/ggml-cpu/amx/mmq.cpp")
TILES_CALL = "_tile_loadconfig(&tc);"
TILES_REPAIRED = 'asm volatile("" : : "r"(&tc) : "memory"); ' + TILES_CALL
"""GCC 12 declares too small an input for _tile_loadconfig and drops stores to the configuration; AMX then crashes."""
PACKAGES = {
    "openvino": ("openvino==2026.4.1",),
    "onnxruntime": (f"onnxruntime-genai=={ONNX_BUILDER}", "onnxruntime==1.32.0", "onnx==1.23.2", "onnx-ir==1.1.0"),
}


@dataclass(frozen=True, kw_only=True)
class LlamaCpp:
    """Programs of a native build."""

    batched_bench: Path
    quantize: Path


def run(command: list[str | Path], log: Path, **more: str) -> None:
    """Run a step of an installation, everything it says into `log`; raises EngineFailed."""
    with log.open("a") as file:
        done = subprocess.run([str(part) for part in command], stdout=file, stderr=file, env={**os.environ, **more})
    if done.returncode:
        raise EngineFailed(f"installation failed, see {log}: {' '.join(str(part) for part in command[:6])} ...")


def llama_cpp(root: Path) -> LlamaCpp:
    """Fetch and build llama.cpp for this CPU, once."""
    folder = root / f"llama-cpp-python-{LLAMA_CPP}"
    build = folder / "build"
    programs = LlamaCpp(batched_bench=build / "bin" / TARGETS[0], quantize=build / "bin" / TARGETS[1])
    if programs.batched_bench.exists() and programs.quantize.exists():
        return programs
    build_llama_cpp(folder, build, SWITCHES, TARGETS)
    return programs


def llama_server(root: Path) -> Path:
    """llama.cpp's HTTP server of the same source, built once."""
    folder = root / f"llama-cpp-python-{LLAMA_CPP}"
    program = folder / "build-server" / "bin" / "llama-server"
    if not program.exists():
        build_llama_cpp(folder, folder / "build-server", {**SWITCHES, **SERVER_SWITCHES}, ("llama-server",))
    return program


def build_llama_cpp(folder: Path, build: Path, switches: dict[str, str], targets: tuple[str, ...]) -> None:
    """Fetch the source into `folder` where it is missing, and build programs in `build`."""
    print(
        f"building {', '.join(targets)} of llama-cpp-python {LLAMA_CPP} in {build} (ten minutes on two cores) ...",
        file=sys.stderr,
    )
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "install.log"
    source = folder / f"llama_cpp_python-{LLAMA_CPP}" / "vendor" / "llama.cpp"
    if not source.exists():
        fetch_llama_cpp(folder, log)
    repair_tiles(source / TILES)
    cmake = Path(sys.executable).with_name("cmake")
    run([cmake, "-S", source, "-B", build, *(f"-D{name}={value}" for name, value in switches.items())], log)
    run([cmake, "--build", build, "-j", str(os.cpu_count()), "--target", *targets], log)


def fetch_llama_cpp(folder: Path, log: Path) -> None:
    """Download and unpack the source distribution."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python"]
    run([*pip, "-d", folder, f"llama-cpp-python=={LLAMA_CPP}"], log)
    with tarfile.open(folder / f"llama_cpp_python-{LLAMA_CPP}.tar.gz") as archive:
        archive.extractall(folder, filter="data")


def repair_tiles(path: Path) -> None:
    """Keep the stores to the tile configuration before it is loaded."""
    text = path.read_text()
    if TILES_REPAIRED in text:
        return
    if text.count(TILES_CALL) != 1:
        raise EngineFailed(f"{path} calls _tile_loadconfig {text.count(TILES_CALL)} times; once was expected")
    path.write_text(text.replace(TILES_CALL, TILES_REPAIRED))


def packages(root: Path, name: str) -> Path:
    """Folder for PYTHONPATH with the packages of an engine beside those of this environment, made once."""
    folder, wanted = root / f"{name}-packages", "\n".join(PACKAGES[name])
    stamp = folder / "complete"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {', '.join(PACKAGES[name])} in {folder} ...", file=sys.stderr, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "install", "--upgrade", "--target", folder]
        run([*pip, *PACKAGES[name]], root / f"{name}-install.log")
        stamp.write_text(wanted)
    return folder
