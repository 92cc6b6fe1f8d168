"""Who is measured: this engine with a model and a dtype, transformers with a checkpoint, or any server by its address.

All of them are servers that speak OpenAI's API, so that one client measures them alike.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from twofold.bench.client import Endpoint, get
from twofold.bench.proof.model import Contender, Role
from twofold.bench.proof.process import Server, started
from twofold.config import DTYPES
from twofold.errors import BenchError, SettingsError
from twofold.loading import open_model
from twofold.weights.fingerprint import fingerprint

PROGRAM = "from twofold.cli.main import main; main()"
TRANSFORMERS = "transformers"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a user asked for. model: folder, file, hub id, "demo" or a URL; engine: twofold, transformers or endpoint.

    options: further options of `twofold serve`. name: the model's name at an endpoint. key: an endpoint's API key.
    """

    role: Role
    engine: str
    model: str
    dtype: str | None = None
    threads: int | None = None
    name: str = ""
    key: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Running:
    """A contender that takes requests. server: its process, None for one that somebody else runs."""

    contender: Contender
    endpoint: Endpoint
    model_name: str
    server: Server | None = None

    def extra(self, round_salt: str) -> dict[str, Any]:
        """Fields that make the same prompts new to this contender in every round, where it has such."""
        return {"cache_salt": round_salt} if self.contender.kind == "twofold" else {}


def read_candidate(model: str, dtype: str | None, threads: int | None, name: str, key: str) -> Spec:
    """The candidate of a command line."""
    engine = "endpoint" if is_url(model) else "twofold"
    return Spec(role="candidate", engine=engine, model=model, dtype=dtype, threads=threads, name=name, key=key)


def read_baseline(text: str, candidate: Spec, dtype: str | None, name: str, key: str) -> Spec:
    """A baseline of a command line: a dtype of the candidate's model, transformers, a URL, or another model.

    Raises SettingsError for one that needs the candidate's files when that is an address.
    """
    if is_url(text):
        return Spec(role="baseline", engine="endpoint", model=text, name=name, key=key)
    spec = replace(candidate, role="baseline", name="", key="")
    if text in (*DTYPES, TRANSFORMERS):
        if candidate.engine == "endpoint":
            raise SettingsError(
                f"the baseline {text} needs the candidate's files, and {candidate.model} is an address. Name a model's "
                "folder or an address as the baseline"
            )
        if text == TRANSFORMERS:
            return replace(spec, engine=TRANSFORMERS, dtype=dtype or "bf16")
        return replace(spec, engine="twofold", dtype=text)
    return replace(spec, engine="twofold", model=text, dtype=dtype, threads=candidate.threads)


def is_url(text: str) -> bool:
    """Whether this is an address and no model."""
    return text.startswith(("http://", "https://"))


def check_files(spec: Spec) -> None:
    """Raise SettingsError, or what opening a model raises, for a contender that could not be started here."""
    if spec.engine == TRANSFORMERS:
        transformers_command(spec)
    elif spec.engine == "twofold":
        open_model(spec.model)


@contextlib.contextmanager
def running(spec: Spec, logs: Path) -> Iterator[Running]:
    """The contender, for as long as the block runs. Raises BenchError when it does not come up."""
    if spec.engine == "endpoint":
        yield at_address(spec)
        return
    command = twofold_command(spec) if spec.engine == "twofold" else transformers_command(spec)
    contender = describe(spec)
    with started(command, logs / f"{spec.role}.log", f"{spec.role} ({contender.name})") as server:
        yield Running(contender=contender, endpoint=Endpoint(server.url), model_name=spec.model, server=server)


def twofold_command(spec: Spec) -> list[str]:
    """twofold serve, from this environment; more may wait than the workload ever sends."""
    command = [sys.executable, "-c", PROGRAM, "serve", spec.model, "--max-waiting", "4096"]
    command += ["--dtype", spec.dtype] if spec.dtype else []
    command += ["--threads", str(spec.threads)] if spec.threads else []
    for name, value in spec.options.items():
        command += [f"--{name}", value]
    return command


def transformers_command(spec: Spec) -> list[str]:
    """transformers, behind the same API. Raises SettingsError where it is not installed."""
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise SettingsError(f"the baseline transformers needs {' and '.join(missing)}: pip install torch transformers")
    command = [
        sys.executable,
        "-m",
        "twofold.bench.proof.transformers_server",
        str(folder_of(spec)),
        spec.dtype or "bf16",
    ]
    return command + (["--threads", str(spec.threads)] if spec.threads else [])


def folder_of(spec: Spec) -> Path:
    """Where a checkpoint lies that transformers can read. Raises SettingsError for what is no folder."""
    folder = open_model(spec.model).folder
    if not folder.is_dir():
        raise SettingsError(
            f"transformers reads folders with safetensors, and {folder} is none. Choose another baseline"
        )
    return folder


def describe(spec: Spec) -> Contender:
    """What the bundle tells of a contender that is started here."""
    model = open_model(spec.model)
    dtype = spec.dtype or model.own_dtype or "bf16"
    notes = []
    if spec.engine == TRANSFORMERS:
        notes.append("transformers answers one request at a time, as a loop around generate() does.")
        weight_bytes, version = (
            sum(path.stat().st_size for path in model.files.weight_files()),
            installed("transformers"),
        )
    else:
        weight_bytes, version = model.footprint(dtype).total_bytes, installed("twofold")
    return Contender(
        role=spec.role,
        kind="transformers" if spec.engine == TRANSFORMERS else "twofold",
        name=f"{Path(spec.model).name} in {dtype}, {spec.engine}",
        model=spec.model,
        settings={"dtype": dtype, "threads": str(spec.threads or "one per core"), **spec.options},
        version=version,
        weights=fingerprint(model.files.config, model.files.weight_files()),
        weight_bytes=weight_bytes,
        notes=notes,
    )


def installed(package: str) -> str:
    """Name and version of a package."""
    from importlib.metadata import version

    return f"{package} {version(package)}"


async def memory_pace(running: Running) -> dict[str, float]:
    """What a server of this engine tells of its decoding: weight_bytes_per_s, and what its memory gives (read_limit).

    {} for other contenders, and where nothing was decoded.
    """
    if running.contender.kind != "twofold":
        return {}
    _, text = await get(running.endpoint, "/metrics")
    values = {
        line.partition("{")[0]: float(line.rsplit(" ", 1)[1])
        for line in text.decode().splitlines()
        if line.startswith("twofold:") and "{" in line
    }
    seconds, read = values.get("twofold:decode_seconds_total", 0.0), values.get("twofold:decode_read_bytes_total", 0.0)
    limit = values.get("twofold:memory_read_limit_bytes_per_second")
    return {"weight_bytes_per_s": read / seconds, "read_limit": limit} if seconds and limit else {}


async def models_at(endpoint: Endpoint) -> list[str]:
    """Names an endpoint serves. Raises BadAnswer, BenchError."""
    status, body = await get(endpoint, endpoint.path("models"))
    try:
        return [str(item["id"]) for item in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(
            f"{endpoint.url} answered /v1/models with {status} and no list of models. Name the model with --name or "
            "--baseline-name"
        ) from error


def at_address(spec: Spec) -> Running:
    """A server that somebody else runs. Raises BenchError when it is not there."""
    import asyncio

    endpoint = Endpoint(spec.model, spec.key)
    name = spec.name or (asyncio.run(models_at(endpoint)) or [""])[0]
    note = "What runs behind this address, and on what machine, is not known here: no memory, CPU time or energy."
    contender = Contender(
        role=spec.role,
        kind="endpoint",
        name=f"{name} at {spec.model}",
        model=name,
        settings={"url": spec.model},
        notes=[note],
    )
    return Running(contender=contender, endpoint=endpoint, model_name=name)
