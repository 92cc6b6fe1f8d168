"""An exported graph in ONNX Runtime: checked, opened, and its refusals in our own words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from twofold.errors import CheckpointError, SettingsError, UnsupportedModel, UnsupportedOp
from twofold.export.manifest import GRAPH_NAME, ExportedGraph, Manifest
from twofold.export.providers import choose_provider
from twofold.ops.packed import AnyArray

INSTALL = "pip install 'twofold[export]'"
EXACT, FAST = "1", "4"
"""Accuracy: activations in float32, or in int8 as in w8a8 and w4a8 (twenty times as fast with eight-bit weights)."""


@dataclass(frozen=True)
class Opened:
    """A graph ready to run, and what its folder says of it."""

    session: Any
    manifest: Manifest

    def run(self, outputs: Sequence[str], feeds: Mapping[str, AnyArray]) -> list[AnyArray]:
        """These outputs. Raises UnsupportedOp when the runtime gives up."""
        try:
            found: list[AnyArray] = self.session.run(outputs, feeds)
        except refusals() as error:
            told = " ".join(str(error).split())[:300]
            raise UnsupportedOp(f"ONNX Runtime could not run {GRAPH_NAME} ({self.manifest.target}): {told}") from error
        return found


def open_session(
    graph: ExportedGraph, device: str | None = None, threads: int | None = None, accuracy: str = FAST
) -> Opened:
    """Open a graph on an execution provider (None: cpu); accuracy: how a portable graph's int4 and int8 multiply.

    Raises UnsupportedModel for a graph this runtime cannot run, CheckpointError for one that is damaged, SettingsError
    for a provider that is not installed, or without ONNX Runtime.
    """
    if find_spec("onnxruntime") is None:
        raise SettingsError(f"backend onnx needs the package onnxruntime, which is not installed: {INSTALL}")
    import onnxruntime

    providers = choose_provider(device, onnxruntime.get_available_providers())
    return Opened(start(graph, providers, threads, accuracy), graph.manifest)


def start(graph: ExportedGraph, providers: list[str], threads: int | None, accuracy: str) -> Any:
    """A session; the runtime's refusal becomes CheckpointError or UnsupportedModel."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", accuracy)
    try:
        return onnxruntime.InferenceSession(graph.folder / GRAPH_NAME, options, providers=providers)
    except refusals() as error:
        raise refused(graph.folder, graph.manifest, str(error)) from error


def refusals() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; its exceptions have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as kinds

    return (kinds.Fail, kinds.InvalidGraph, kinds.InvalidProtobuf, kinds.InvalidArgument, kinds.NoSuchFile,
            kinds.NotImplemented, kinds.RuntimeException, kinds.EPFail)  # fmt: skip


def refused(folder: Path, manifest: Manifest, words: str) -> CheckpointError | UnsupportedModel:
    """What a runtime's refusal means."""
    import onnxruntime

    runtime = f"ONNX Runtime {onnxruntime.__version__}"
    told = " ".join(words.split())[:300]
    if re.search(r"opset \d+ is under development|Current official support for domain", words):
        return UnsupportedModel(
            f"{folder / GRAPH_NAME} needs an operator set that is too new for {runtime}: {told}. "
            f"Install a newer onnxruntime, or export again with this version of twofold (opset {manifest.opset})."
        )
    if "NOT_IMPLEMENTED" in words or "is not a registered function" in words or "No Op registered" in words:
        return UnsupportedModel(
            f"{runtime} lacks an operator of {folder / GRAPH_NAME}, exported for {manifest.target} as "
            f"{manifest.dtype}: {told}. Install a newer onnxruntime, or export with --target portable."
        )
    return CheckpointError(f"{folder / GRAPH_NAME} cannot be opened by {runtime}: {told}. Export the model again.")
