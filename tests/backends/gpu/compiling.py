"""Compiles kernels for GPUs that are not there and reads what they need.

python -m tests.backends.gpu.compiling               prints it as JSON
python -m tests.backends.gpu.compiling --write       keeps it as the ratchet
python -m tests.backends.gpu.compiling NAME ...      only kernels whose name begins so

Run it without TRITON_INTERPRET: interpreted kernels cannot be compiled. A kernel file that has SIGNATURES
(kernels.signature) is taken; the names are "file: what", targets are sm_80, sm_90 and gfx942.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from twofold.backends.gpu import kernels
from twofold.backends.gpu.kernels.signature import Signature

RATCHET = Path(__file__).with_name("resources.json")
TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
Resources = dict[str, int]


def signatures() -> dict[str, Signature]:
    """All of them by name."""
    found: dict[str, Signature] = {}
    for module in pkgutil.iter_modules(kernels.__path__):
        listed = getattr(importlib.import_module(f"{kernels.__name__}.{module.name}"), "SIGNATURES", {})
        found |= {f"{module.name}: {name}": signature for name, signature in listed.items()}
    return found


def compile_for(signature: Signature, target: str) -> Resources:
    """Registers, spilled bytes (threads' own memory) and shared bytes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    backend, architecture, warp = TARGETS[target]
    names = signature.kernel.arg_names
    types = dict(part.split(":", 1) for part in signature.arguments.split())
    given = {"TARGET": backend, "EARLY": target == "sm_90", "NATIVE": target == "sm_90"}
    constants = {name: value for name, value in given.items() if name in names} | dict(signature.constants)
    even = [name for name, kind in types.items() if kind.startswith("*") or kind.endswith(":16")]
    source = ASTSource(
        signature.kernel,
        {name: "constexpr" if name in constants else types[name].removesuffix(":16") for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in even},
    )
    options: dict[str, Any] = {"num_warps": signature.warps, "enable_fp_fusion": signature.fusion}
    if signature.stages is not None and backend == "cuda":
        options["num_stages"] = signature.stages
    if signature.registers is not None and backend == "cuda":
        options["maxnreg"] = signature.registers
    compiled = triton.compile(source, target=GPUTarget(backend, architecture, warp), options=options)
    registers, spills = cuda_usage(compiled) if backend == "cuda" else hip_usage(compiled.asm["amdgcn"])
    return {"registers": registers, "spills": spills, "shared": int(compiled.metadata.shared)}


def cuda_usage(compiled: Any) -> tuple[int, int]:
    """Registers and stack by cuobjdump, which Triton brings along."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        shown = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", shown.stdout + shown.stderr)
    assert found, shown.stdout + shown.stderr
    return int(found[1]), int(found[2])


def hip_usage(assembly: str) -> tuple[int, int]:
    """Vector registers and bytes of scratch memory by the assembly's own notes."""
    registers, scratch = (
        re.search(rf"\.{name}:\s+(\d+)", assembly) for name in ("vgpr_count", "private_segment_fixed_size")
    )
    assert registers, "no count of registers"
    assert scratch, "no size of scratch memory"
    return int(registers[1]), int(scratch[1])


def measure(prefixes: list[str]) -> dict[str, dict[str, Resources]]:
    """Of every kernel that begins with one of the prefixes (all without), for every target."""
    chosen = {n: s for n, s in signatures().items() if not prefixes or n.startswith(tuple(prefixes))}
    jobs = [(name, target) for name in chosen for target in chosen[name].targets]
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda job: compile_for(chosen[job[0]], job[1]), jobs)
    found: dict[str, dict[str, Resources]] = {}
    for (name, target), resources in zip(jobs, results, strict=True):
        found.setdefault(name, {})[target] = resources
    return found


def main(arguments: list[str]) -> None:
    """See the module."""
    prefixes = [argument for argument in arguments if argument != "--write"]
    found = measure(prefixes)
    if "--write" in arguments:
        kept = json.loads(RATCHET.read_text()) if RATCHET.exists() and prefixes else {}
        found = dict(sorted((kept | found).items()))
        lines = [f" {json.dumps(name)}: {json.dumps(resources)}" for name, resources in found.items()]
        RATCHET.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    else:
        print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
