"""Running an exported folder: what its settings may be, and the graph as the network's forward."""

from __future__ import annotations

from typing import cast

from twofold.config import Resolved, Settings
from twofold.errors import CheckpointError, SettingsError
from twofold.export.manifest import ExportedGraph
from twofold.models.network import Architecture, Forward
from twofold.ops.types import KvDtype

BACKEND = "onnx"


def check_graph(graph: ExportedGraph, architecture: Architecture) -> None:
    """CheckpointError unless the graph is of the network that config.json describes."""
    manifest, shape = graph.manifest, architecture.cache_shape
    found = (manifest.kv_heads, manifest.head_size, manifest.chunks, manifest.vocabulary)
    if found != (shape.kv_heads, shape.head_size, shape.chunks, architecture.vocabulary):
        raise CheckpointError(
            f"{graph.folder} holds the graph of another network than config.json describes; export the model again"
        )


def choose_graph_place(settings: Settings, graph: ExportedGraph) -> tuple[str, str]:
    """Backend and execution provider of an exported folder.

    SettingsError for another backend, and for a graph that ONNX Runtime GenAI is to drive.
    """
    if graph.manifest.is_masked:
        raise SettingsError(
            f"{graph.folder} was exported for ONNX Runtime GenAI (--target genai), which drives it itself; "
            "for twofold export the model with --target onnxruntime or portable"
        )
    if settings.backend not in (None, BACKEND):
        raise SettingsError(
            f"backend is {settings.backend!r}, and this folder holds an ONNX graph, which only backend {BACKEND} runs; "
            "leave backend out or load the original checkpoint"
        )
    return BACKEND, settings.device or "cpu"


def choose_graph_kv(settings: Settings) -> tuple[KvDtype, str, tuple[str, ...]]:
    """How keys and values are kept, and why. SettingsError for anything but float32."""
    check_graph_kv(settings.kv_cache_dtype)
    return "f32", "an exported graph takes keys and values as f32", ()


def check_graph_kv(kv_cache_dtype: KvDtype | None) -> None:
    """SettingsError where keys and values are to be anything but float32."""
    if kv_cache_dtype not in (None, "f32"):
        raise SettingsError(
            f"keys and values are to be kept in {kv_cache_dtype}, and an exported graph takes them as f32 only"
        )


def refuse_graph_backend(settings: Settings) -> None:
    """SettingsError where a checkpoint is to run as a graph."""
    if settings.backend == BACKEND:
        raise SettingsError(
            f"backend {BACKEND} runs exported folders, and this model is none; write one: twofold export MODEL -o DIR"
        )


def open_forward(graph: ExportedGraph, settings: Resolved) -> Forward:
    """The graph in ONNX Runtime, on the provider that was chosen. Raises what export.session.open_session raises."""
    from twofold.export.forward import GraphForward
    from twofold.export.session import open_session

    return cast(Forward, GraphForward(open_session(graph, settings.device, settings.threads)))
