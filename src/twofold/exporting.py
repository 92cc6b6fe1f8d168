"""From a model as it is found to a folder with its network as an ONNX graph."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from twofold.errors import SettingsError, TokenizerError
from twofold.export.manifest import ExportedGraph
from twofold.loading import Model, Progress, open_model
from twofold.networks import ORIGINAL
from twofold.ops.formats import format_of
from twofold.ops.packed import Format, Packed
from twofold.ops.types import Target
from twofold.placing import host_packer
from twofold.weights.load import load
from twofold.weights.packed_file import PackedFile
from twofold.weights.quantised import Store

if TYPE_CHECKING:
    from twofold.export.forms import Form

INSTALL = "pip install 'twofold[export]'"


def export_model(
    path_or_id: str | Path,
    output: Path,
    target: str,
    dtype: Form,
    progress: Progress | None = None,
    merges_experts: bool = True,
) -> Path:
    """Write a folder with the network as a graph, its weights, config, tokenizer and template.

    target: portable, onnxruntime or genai; dtype: f32, f16, bf16, int4, int8 or fp8; merges_experts: see Order. One
    matrix is in memory at a time. The folder is written under a temporary name and renamed when it is whole;
    `progress(done, total)` hears of weights. Raises SettingsError when `output` exists, for a packed folder or an
    export, and without the export extra.
    """
    if find_spec("onnx") is None:
        raise SettingsError(f"exporting needs the package onnx, which is not installed: {INSTALL}")
    from twofold.export.write import Order, write_graph

    model = open_model(path_or_id)
    store = model.store
    if output.exists():
        raise SettingsError(f"{output} exists; name a folder that does not, or remove it")
    if isinstance(store, PackedFile | ExportedGraph):
        raise SettingsError(f"{path_or_id} is packed or exported already, as {store.dtype}; {ORIGINAL}")
    temporary = output.with_name(output.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    model.files.copy_to(temporary)
    order = Order(target=target, dtype=dtype, merges_experts=merges_experts, grouped=grouped(model))
    manifest = write_graph(model.architecture, store.names, reader(model, store, progress), order, temporary)
    if target == "genai":
        from twofold.export.genai import write_config

        write_config(model.architecture, manifest.is_packed, model.eos_ids, padding_id(model), temporary)
    temporary.rename(output)
    return output


def padding_id(model: Model) -> int:
    """What stands behind shorter prompts: a token that no prompt holds, or else one that ends answers."""
    stated = model.files.config.get("pad_token_id")
    if isinstance(stated, int) and 0 <= stated < model.architecture.vocabulary:
        return stated
    try:
        special = model.files.tokenizer().special_ids
    except TokenizerError:
        special = {}
    spare = [special[name] for mark in ("pad", "reserved") for name in special if mark in name]
    return spare[0] if spare else max(model.eos_ids, default=0)


def grouped(model: Model) -> frozenset[str]:
    """Names of the weights a checkpoint has four-bit codes of, with a scale for every group of inputs."""
    if model.quantised_dtype is None:
        return frozenset()
    formats = model.formats(model.quantised_dtype)
    return frozenset(target.name for target in model.targets if format_of(formats, target) == "group4")


def reader(model: Model, store: Store, progress: Progress | None) -> Callable[[Target, int | None, Format], Packed]:
    """Reads one matrix at a time, and tells how many of them are done."""
    packer = host_packer()
    total = sum(len(target.sources) for target in model.targets)
    done = 0

    def read(target: Target, expert: int | None, form: Format) -> Packed:
        nonlocal done
        one = target if expert is None else replace(target, shape=target.shape[1:], sources=(target.sources[expert],))
        packed: Packed = load(store, (one,), {one.name: form}, packer)[one.name]
        done += 1
        if progress:
            progress(done, total)
        return packed

    return read
