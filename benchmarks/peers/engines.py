"""The engines: how each gets its weights, how it is run, and what it reads per step."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.networks import NETWORKS, write_network
from benchmarks.peers import install
from benchmarks.peers.gguf_file import Sizes, read_sizes
from benchmarks.peers.protocol import EngineFailed, how_it_ended
from twofold.loading import open_model

GGUF_KINDS = {"w4a8": "Q4_0", "w8a8": "Q8_0", "bf16": "BF16"}
GGUF_LABELS = {"w4a8": "Q4_0, head Q6_K", "w8a8": "Q8_0", "bf16": "BF16"}

ROOT = Path(__file__).parents[2]
INTEGER_BITS = {"w4a8": 4, "w8a8": 8}
BUILDER_OPTIONS = (
    *("accuracy_level=4", "block_size=32", "is_symmetric=true", "matmul_mixed_precision=last_matmul:int8"),
    *("op_types_to_quantize=MatMul/Gather", "shared_embeddings=false", "prune_lm_head=true", "hf_token=false"),
)
"""int8 activations, weights in blocks like Q4_0's; only the last position goes through the head."""


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


def runner(name: str, packages: Path | None = None) -> tuple[str, ...]:
    """Command of the runner module benchmarks.peers.run_NAME, with further packages where it needs them."""
    return (*python_with(packages), "-m", f"benchmarks.peers.run_{name}")


def python_with(packages: Path | None) -> tuple[str, ...]:
    """This interpreter, with a folder of packages put in front of its own."""
    if packages is None:
        return (sys.executable,)
    paths = [str(packages.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return ("env", f"PYTHONPATH={os.pathsep.join(paths)}", sys.executable)


def in_own_process(call: str, *arguments: str | Path) -> None:
    """Call benchmarks.peers function `module:name` with strings: what it maps and holds is given back at its end."""
    module, name = call.split(":")
    program = f"import sys; from pathlib import Path; from {module} import {name}; {name}(*map(Path, sys.argv[1:]))"
    must([sys.executable, "-c", program, *map(str, arguments)])


def must(command: list[str]) -> None:
    """Run a preparation; raises EngineFailed with the last thing it said."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EngineFailed(f"{' '.join(command[:3])} ... {how_it_ended(done)}")


def prepare_checkpoint(place: Place) -> None:
    """The random network itself, the same bytes for every engine."""
    write_network(NETWORKS[place.network], place.checkpoint)


def prepare_twofold(place: Place) -> Ready:
    """A packed folder."""
    folder = place.beside(f"{place.dtype}-{packing()}")
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


def packing() -> str:
    """Short name of how twofold packs today, so that a folder packed before a change is not taken for today's."""
    sources = [ROOT / "native/pack.cpp", *sorted((ROOT / "src/twofold/quant").glob("*.py"))]
    sources += [ROOT / "src/twofold/ops/packed.py", ROOT / "src/twofold/weights/packed_file.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]


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


def batched_bench(place: Place, program: Path, version: str, **more: Any) -> Ready:
    """A program that speaks like llama-batched-bench; `more` are options of its runner."""
    path = prepare_gguf(place, install.llama_cpp(place.root).quantize)
    return Ready(
        form=GGUF_LABELS[place.dtype],
        command=runner("batched_bench"),
        weights=path,
        options={"program": str(program), "version": version, **more},
        sizes=read_sizes(path),
    )


def prepare_llama_cpp(place: Place) -> Ready:
    """llama.cpp as it comes: mapped file, weights repacked at load, flash attention as it chooses."""
    version = f"of llama-cpp-python {install.LLAMA_CPP}"
    return batched_bench(place, install.llama_cpp(place.root).batched_bench, version)


def prepare_ik(place: Place) -> Ready:
    """ik_llama.cpp with run-time repacking."""
    if place.ik is None:
        raise EngineFailed("not on the package index; name a build of it with --ik PATH")
    program = place.ik if place.ik.is_file() else find_program(place.ik)
    ready = batched_bench(place, program, "a build named with --ik", flags=("-rtr",), is_alike=True)
    note = "its program feeds one token again and again, so that all choose the same experts: compare `one token`"
    return replace(ready, note=note)


def find_program(folder: Path) -> Path:
    """llama-batched-bench in a build folder."""
    for path in (folder / "llama-batched-bench", folder / "bin" / "llama-batched-bench"):
        if path.is_file():
            return path
    raise EngineFailed(f"{folder} holds no llama-batched-bench, neither there nor in bin/")


def prepare_transformers(place: Place) -> Ready:
    """The checkpoint itself."""
    return Ready(form="bf16", command=runner("transformers"), weights=place.checkpoint, note="bfloat16 weights")


def prepare_openvino(place: Place) -> Ready:
    """The model written by openvino_file, so far for dense networks only."""
    bits = INTEGER_BITS.get(place.dtype)
    if bits is None:
        raise EngineFailed("its floating-point model is not set up here; int4 and int8 are")
    if is_llama4(place):
        raise EngineFailed("only the dense network's graph is written here (openvino_file.py), none with experts")
    packages, folder = install.packages(place.root, "openvino"), place.beside(f"openvino-{place.dtype}")
    if not folder.exists():
        with replaced(folder) as partial:
            partial.mkdir(parents=True)
            write = (*python_with(packages), "-m", "benchmarks.peers.openvino_file")
            must([*write, str(place.checkpoint), str(partial / "model.xml"), str(bits)])
    form = "int4, groups of 32, head int8" if bits == 4 else "int8"
    return Ready(form=form, command=runner("openvino", packages), weights=folder, note="its default cache is 8-bit")


def prepare_onnxruntime(place: Place) -> Ready:
    """Driven by its generate() library: what its own model builder makes of a checkpoint, of a Llama 4 our export."""
    bits = INTEGER_BITS.get(place.dtype)
    if bits is None:
        raise EngineFailed("its CPU build has no bfloat16 matrices; int4 and int8 are compared")
    packages = install.packages(place.root, "onnxruntime")
    folder = place.beside(f"onnxruntime-{place.dtype}")
    note = "float32 cache"
    if is_llama4(place):
        note = "twofold's export, as its own builder knows no Llama 4; float32 cache"
        if not folder.exists():
            export_graph(place, bits, packages, folder)
    elif not folder.exists():
        with replaced(folder) as partial:
            build = (*python_with(packages), "-m", "onnxruntime_genai.models.builder", "-e", "cpu", "-p", f"int{bits}")
            where = ("-i", place.checkpoint, "-o", partial, "-c", place.root / "onnxruntime-cache")
            must([*build, *map(str, where), "--extra_options", *BUILDER_OPTIONS])
    form = "MatMulNBits int4, groups of 32, head int8" if bits == 4 else "MatMulNBits int8"
    return Ready(form=form, command=runner("onnxruntime", packages), weights=folder, note=note)


def export_graph(place: Place, bits: int, packages: Path, folder: Path) -> None:
    """What twofold exports for ONNX Runtime GenAI, in the form that is faster on CPUs."""
    export = (*python_with(packages), "-c", "from twofold.cli.main import main; main()", "export")
    options = ("--target", "genai", "--dtype", f"int{bits}", "--experts", "apart")
    must([*export, str(place.checkpoint), "-o", str(folder), *options])


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A name to build a folder under; it takes its own name when all went well."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    partial.rename(folder)


def is_llama4(place: Place) -> bool:
    """Whether the network has experts."""
    return bool(NETWORKS[place.network]["model_type"] == "llama4_text")


PREPARE: dict[str, Callable[[Place], Ready]] = {
    "twofold": prepare_twofold,
    "llama.cpp": prepare_llama_cpp,
    "ik_llama.cpp": prepare_ik,
    "transformers": prepare_transformers,
    "openvino": prepare_openvino,
    "onnxruntime": prepare_onnxruntime,
}


def prepare(name: str, place: Place) -> Ready:
    """Install, build, convert: everything once. Raises EngineFailed with the reason where it cannot be."""
    return PREPARE[name](place)
