"""The engines: how each gets its weights, how it is run, and what it reads per step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.networks import NETWORKS, write_network
from benchmarks.peers import install
from benchmarks.peers.gguf_file import Sizes, read_sizes
from benchmarks.peers.protocol import EngineFailed
from twofold.loading import open_model

GGUF_KINDS = {"w4a8": "Q4_0", "w8a8": "Q8_0", "bf16": "BF16"}
GGUF_LABELS = {"w4a8": "Q4_0, head Q6_K", "w8a8": "Q8_0", "bf16": "BF16"}


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is to be measured and where its files lie."""

    network: str
    dtype: str
    root: Path
    ik: Path | None = None

    @property
    def checkpoint(self) -> Path:
        """Folder of the bfloat16 checkpoint."""
        return self.root / self.network

    def beside(self, name: str) -> Path:
        """A file or folder made from the checkpoint."""
        return self.root / f"{self.network}-{name}"


@dataclass(frozen=True, kw_only=True)
class Ready:
    """An engine that can be asked: its runner, its weights and what is known of them.

    sizes: bytes a step reads, None where the format hides it. note: what a reader of the figures must know.
    """

    form: str
    command: tuple[str, ...]
    weights: Path
    options: dict[str, Any] = field(default_factory=dict)
    sizes: Sizes | None = None
    note: str = ""

    @property
    def file_bytes(self) -> int:
        """Bytes of the weights on disk."""
        paths = [self.weights] if self.weights.is_file() else sorted(self.weights.iterdir())
        return sum(path.stat().st_size for path in paths if path.suffix not in (".json", ".log"))


def runner(name: str, python: str | Path = sys.executable) -> tuple[str, ...]:
    """Command of the runner module benchmarks.peers.run_NAME."""
    return (str(python), "-m", f"benchmarks.peers.run_{name}")


def in_own_process(call: str, *arguments: str | Path) -> None:
    """Call benchmarks.peers function `module:name` with strings: what it maps and holds is given back at its end."""
    module, name = call.split(":")
    program = f"import sys; from pathlib import Path; from {module} import {name}; {name}(*map(Path, sys.argv[1:]))"
    must([sys.executable, "-c", program, *map(str, arguments)])


def must(command: list[str]) -> None:
    """Run a preparation; raises EngineFailed with the last thing it said."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise EngineFailed(f"{' '.join(command[:3])} ...: {said[:300]}")


def prepare_checkpoint(place: Place) -> None:
    """The random network itself, the same bytes for every engine."""
    write_network(NETWORKS[place.network], place.checkpoint)


def prepare_twofold(place: Place) -> Ready:
    """A packed folder."""
    folder = place.beside(place.dtype)
    if not folder.exists():
        pack = [sys.executable, "-c", "from twofold.cli.main import main; main()", "pack"]
        must([*pack, str(place.checkpoint), "-o", str(folder), "--dtype", place.dtype])
    model = open_model(folder)
    counted = model.footprint(place.dtype)
    experts, active = model.architecture.expert_count, counted.active_experts
    stack = counted.bytes.get("expert", 0)
    once = counted.read_bytes_per_token - (stack * active // experts if experts else 0)
    return Ready(
        form=place.dtype,
        command=runner("twofold"),
        weights=folder,
        sizes=Sizes(once_bytes=once, expert_bytes=stack),
    )


def prepare_gguf(place: Place, quantize: Path) -> Path:
    """The GGUF file of this dtype, quantised by llama.cpp's own program."""
    plain, path = place.beside("BF16.gguf"), place.beside(f"{GGUF_KINDS[place.dtype]}.gguf")
    if not plain.exists():
        in_own_process("benchmarks.peers.gguf_file:write_gguf", place.checkpoint, plain)
    if not path.exists():
        temporary = path.with_suffix(".partial")
        must([str(quantize), str(plain), str(temporary), GGUF_KINDS[place.dtype]])
        temporary.rename(path)
    return path


def batched_bench(place: Place, program: Path, version: str, flags: tuple[str, ...], note: str) -> Ready:
    """A program that speaks like llama-batched-bench."""
    path = prepare_gguf(place, install.llama_cpp(place.root).quantize)
    return Ready(
        form=GGUF_LABELS[place.dtype],
        command=runner("batched_bench"),
        weights=path,
        options={"program": str(program), "version": version, "flags": flags},
        sizes=read_sizes(path),
        note=note,
    )


def prepare_llama_cpp(place: Place) -> Ready:
    """llama.cpp as it comes: mapped file, weights repacked at load, flash attention as it chooses."""
    version = f"of llama-cpp-python {install.LLAMA_CPP}"
    return batched_bench(place, install.llama_cpp(place.root).batched_bench, version, (), "")


def prepare_ik(place: Place) -> Ready:
    """ik_llama.cpp with run-time repacking."""
    if place.ik is None:
        raise EngineFailed("not on the package index; name a build of it with --ik PATH")
    program = place.ik if place.ik.is_file() else find_program(place.ik)
    note = "its program feeds one token again and again, so that all sequences choose the same experts"
    return batched_bench(place, program, "a build named with --ik", ("-rtr",), note)


def find_program(folder: Path) -> Path:
    """llama-batched-bench in a build folder."""
    for path in (folder / "llama-batched-bench", folder / "bin" / "llama-batched-bench"):
        if path.is_file():
            return path
    raise EngineFailed(f"{folder} holds no llama-batched-bench, neither there nor in bin/")


def prepare_transformers(place: Place) -> Ready:
    """The checkpoint itself."""
    return Ready(form="bf16", command=runner("transformers"), weights=place.checkpoint, note="bfloat16 weights")


PREPARE: dict[str, Callable[[Place], Ready]] = {
    "twofold": prepare_twofold,
    "llama.cpp": prepare_llama_cpp,
    "ik_llama.cpp": prepare_ik,
    "transformers": prepare_transformers,
}


def prepare(name: str, place: Place) -> Ready:
    """Install, build, convert: everything once. Raises EngineFailed with the reason where it cannot be."""
    return PREPARE[name](place)
