"""From a folder, a GGUF file or a hub id to a network ready to run: files, memory check, weights, tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twofold import demo
from twofold.config import DTYPES, Resolved, Settings, choose_dtype, choose_kv_dtype, resolve
from twofold.engine.blocks import CacheLayout, plan_layout
from twofold.engine.request import SamplingParams
from twofold.errors import CheckpointError, InvalidSampling, SettingsError
from twofold.export.manifest import ExportedGraph, is_exported
from twofold.graphs import check_graph, choose_graph_kv, choose_graph_place
from twofold.leading import Ranks
from twofold.model_files import ModelFiles, open_files
from twofold.models.network import Architecture, Forward
from twofold.models.registry import read_architecture
from twofold.networks import ORIGINAL, load_ranks, read_weights
from twofold.offloading import place_experts
from twofold.ops.cost import Footprint, cache_bytes, footprint, pool_bytes
from twofold.ops.formats import Formats
from twofold.ops.interface import Ops
from twofold.ops.types import KvDtype, Target
from twofold.phases import Phases
from twofold.placing import available_bytes, build_packer, check_ranks, choose_place, roomier
from twofold.quant.schemes import scheme
from twofold.shares import check_shares, share_of
from twofold.text.chat import ChatTemplate
from twofold.text.tokenizer import Tokenizer, check_vocabulary
from twofold.weights.codecs import codec_of
from twofold.weights.gguf_checkpoint import GgufCheckpoint
from twofold.weights.hub import resolve as resolve_folder
from twofold.weights.kv_verdict import FILE_NAME as VERDICT_NAME
from twofold.weights.kv_verdict import carry_verdict, find_verdict
from twofold.weights.memory import available_memory, check_memory
from twofold.weights.packed_file import FILE_NAME, PackedFile, check_formats, write_packed
from twofold.weights.quantised import QuantisedCheckpoint, Store

if TYPE_CHECKING:
    pass

Progress = Callable[[int, int], None]
GGUF_DTYPE = "gguf"
"""Four-bit weights of a GGUF file as they are, everything else in bfloat16."""
TEST = "twofold eval MODEL --gate-kv tests it."
WORKING_BYTES = 256 * 2**20
"""Room for activations, buffers of the loader and the interpreter, beside weights and cache."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is known of a checkpoint before its weights are read."""

    files: ModelFiles
    architecture: Architecture
    store: Store | PackedFile | ExportedGraph
    targets: tuple[Target, ...]
    eos_ids: tuple[int, ...]
    defaults: SamplingParams

    @property
    def folder(self) -> Path:
        """The model's folder, or its GGUF file."""
        return self.files.path

    def footprint(self, dtype: str) -> Footprint:
        """Bytes held and read with this scheme."""
        return footprint(self.targets, self.formats(dtype), self.architecture.active_experts, self.has_tied_head)

    @property
    def packed_dtype(self) -> str | None:
        """Scheme of a packed or exported folder, None for a checkpoint."""
        return self.store.dtype if isinstance(self.store, PackedFile | ExportedGraph) else None

    @property
    def quantised_dtype(self) -> str | None:
        """Name of a quantised checkpoint's format, None for other checkpoints and packed folders."""
        if isinstance(self.store, GgufCheckpoint):
            return GGUF_DTYPE if self.store.has_four_bits else None
        return self.store.codec.name if isinstance(self.store, QuantisedCheckpoint) else None

    @property
    def own_dtype(self) -> str | None:
        """What the folder's own bits are called, None for a plain checkpoint."""
        return self.packed_dtype or self.quantised_dtype

    def formats(self, dtype: str) -> Formats:
        """Format of every weight: as stored where `dtype` names what the folder holds, else by role."""
        if isinstance(self.store, ExportedGraph):
            return self.store.formats
        if isinstance(self.store, PackedFile) and self.store.formats is not None:
            return self.store.formats
        if isinstance(self.store, QuantisedCheckpoint | GgufCheckpoint) and dtype == self.quantised_dtype:
            return self.store.formats(self.targets)
        return scheme(dtype)

    @property
    def has_tied_head(self) -> bool:
        """Whether the embedding is the head too."""
        return not any(target.role == "head" for target in self.targets)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A network in memory, with everything needed to use it.

    phases: seconds that config, tokenizer and weights took. kv_reason: why keys and values are kept as they are.
    ranks: the processes that share it with this one, None where it is alone.
    """

    model: Model
    settings: Resolved
    ops: Ops
    forward: Forward
    layout: CacheLayout
    tokenizer: Tokenizer
    template: ChatTemplate
    phases: Mapping[str, float]
    kv_reason: str = "as asked for"
    warnings: tuple[str, ...] = field(default=())
    ranks: Ranks | None = None

    @property
    def load_seconds(self) -> float:
        """Seconds all of it took."""
        return sum(self.phases.values())


def open_model(path_or_id: str | Path) -> Model:
    """Read config and weight table; no weights yet.

    Raises ModelNotFound, UnsupportedModel or CheckpointError.
    """
    files = open_files(demo.model_folder() if str(path_or_id) == "demo" else resolve_folder(path_or_id))
    raw = files.config
    codec_of(raw)  # what cannot be read is said before anything else that may be wrong
    architecture = read_architecture({key: value for key, value in raw.items() if key != "quantization_config"})
    store = files.store()
    targets = architecture.targets(() if isinstance(store, PackedFile | ExportedGraph) else store.names)
    if isinstance(store, PackedFile):
        check_formats(store, targets)
    if isinstance(store, ExportedGraph):
        check_graph(store, architecture)
    return Model(
        files=files,
        architecture=architecture,
        store=store,
        targets=tuple(targets),
        eos_ids=read_eos_ids(files.generation, raw),
        defaults=read_defaults(files.generation),
    )


def load_model(path_or_id: str | Path, settings: Settings, progress: Progress | None = None) -> Loaded:
    """Load a model; raises OutOfMemory before reading any weight when it cannot fit."""
    phases = Phases()
    model = open_model(path_or_id)
    architecture = model.architecture
    dtype = choose_dtype(settings, model.packed_dtype, model.quantised_dtype)
    graph = model.store if isinstance(model.store, ExportedGraph) else None
    place = choose_graph_place(settings, graph) if graph else choose_place(settings)
    kv_dtype, kv_reason, kv_warnings = choose_kv_cache(model.folder, settings, dtype)
    per_token = cache_bytes(architecture.cache_shape, 1, kv_dtype)
    resolved = resolve(settings, place, dtype, kv_dtype, architecture.context, per_token)
    resolved = roomier(settings, resolved, model.footprint(dtype).total_bytes, per_token)
    check_ranks(*place, resolved.ranks)
    resolved = place_experts(model, settings.expert_cache, resolved, partial(needed_bytes, model))
    check_fits(model, resolved)
    phases.end("config")
    tokenizer = model.files.tokenizer()
    check_vocabulary(tokenizer, architecture.vocabulary)
    template = model.files.template(architecture.family)
    phases.end("tokenizer")
    ranks, network = load_ranks(model, str(path_or_id), resolved, progress)
    phases.end("weights")
    return Loaded(
        model=model,
        settings=resolved,
        ops=network.ops,
        forward=network.forward,
        ranks=ranks,
        layout=plan_cache(architecture.cache_shape.chunk, resolved),
        tokenizer=tokenizer,
        template=template,
        phases=phases.seconds,
        kv_reason=kv_reason,
        warnings=(*architecture.warnings, *kv_warnings, *filter(None, [network.told])),
    )


def choose_kv_cache(folder: Path, settings: Settings, dtype: str) -> tuple[KvDtype, str, tuple[str, ...]]:
    """How keys and values are kept, why, and what to warn of; CheckpointError when the folder's verdict is damaged."""
    if is_exported(folder):
        return choose_graph_kv(settings)
    verdict, reason = find_verdict(folder, dtype)
    passed = verdict is not None and verdict.passed
    chosen = choose_kv_dtype(settings, dtype, passed)
    if settings.kv_cache_dtype not in (None, "int8"):
        return chosen, "as asked for", ()
    if settings.kv_cache_dtype == "int8" and not passed:
        return (
            chosen,
            reason,
            (f"keys and values are kept in int8 as asked for, but {reason}; long contexts may suffer. {TEST}",),
        )
    if settings.kv_cache_dtype is None and verdict is None and (folder / VERDICT_NAME).exists():
        return chosen, reason, (f"keys and values are kept in {chosen}: {reason}. {TEST}",)
    return chosen, reason, ()


def pack_model(path_or_id: str | Path, output: Path, dtype: str | None, progress: Progress | None = None) -> Path:
    """Write a folder that starts without packing: weights packed as `dtype`, config, tokenizer and template beside.

    Without `dtype` a quantised checkpoint is packed as it is, any other as w4a8.
    It is written under a temporary name and renamed when it is whole. Raises SettingsError when `output` exists or
    the model is packed already.
    """
    model = open_model(path_or_id)
    if output.exists():
        raise SettingsError(f"{output} exists; name a folder that does not, or remove it")
    if model.packed_dtype:
        raise SettingsError(f"{path_or_id} is packed already, as {model.packed_dtype}; {ORIGINAL}")
    dtype = dtype or model.quantised_dtype or "w4a8"
    check_memory(model.footprint(dtype).total_bytes + WORKING_BYTES, available_memory(), [])
    weights = read_weights(model, dtype, build_packer(), progress)
    temporary = output.with_name(output.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    model.files.copy_to(temporary)
    write_packed(temporary / FILE_NAME, model.targets, model.formats(dtype), weights, dtype)
    carry_verdict(model.folder, temporary, dtype)
    temporary.rename(output)
    return output


def check_fits(model: Model, settings: Resolved) -> None:
    """Refuse a model whose weights and cache exceed the memory at hand, naming a setting that fits."""
    if settings.ranks > 1:
        check_shares(model.architecture, model.targets, model.formats(settings.dtype), settings)

    def needed(dtype: str, tokens: int) -> int:
        return needed_bytes(model, replace(settings, dtype=dtype, cache_tokens=tokens))

    if isinstance(model.store, ExportedGraph):
        smaller: tuple[str, ...] = ()
    else:
        smaller = DTYPES[DTYPES.index(settings.dtype) + 1 :] if settings.dtype in DTYPES else DTYPES[2:]
    context, short = settings.context, min(2048, settings.context)
    choices = [(f"--dtype {name}", needed(name, context)) for name in smaller]
    choices += [(f"--dtype {name} --context {short}", needed(name, short)) for name in (settings.dtype, *smaller)]
    check_memory(needed(settings.dtype, settings.cache_tokens), available_bytes(settings), choices)


def needed_bytes(model: Model, settings: Resolved) -> int:
    """Bytes that weights, cache and work need where they run: of several ranks, on the one that needs most."""
    shape, counted = model.architecture.cache_shape, model.footprint(settings.dtype)
    weights = counted.total_bytes
    if settings.ranks > 1:
        share = share_of(model.architecture, settings, settings.ranks - 1)  # the last one's is the largest
        shape, weights = share.cache_shape(shape), share.footprint_bytes(model.targets, model.formats(settings.dtype))
    if settings.expert_cache and settings.device != "cpu":  # there the host's memory is the device's
        weights -= max(0, counted.bytes["expert"] - settings.expert_cache)
    layout = plan_cache(shape.chunk, settings)
    slots = (layout.global_blocks * layout.block_size, layout.local_blocks * layout.block_size)
    return weights + pool_bytes(shape, slots, settings.kv_cache_dtype) + WORKING_BYTES


def plan_cache(chunk: int | None, settings: Resolved) -> CacheLayout:
    """The cache these settings ask for."""
    return plan_layout(chunk, settings.cache_tokens, settings.step_tokens, settings.max_sequences)


def read_eos_ids(generation: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[int, ...]:
    """Every eos_token_id of generation_config.json, else of config.json (its text part too)."""
    for source in (generation, config, config.get("text_config") or {}):
        value = source.get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(item, int) and not isinstance(item, bool) for item in ids):
            raise CheckpointError(f"eos_token_id is {value!r}; a token id or a list of them was expected")
        return tuple(ids)
    return ()


def read_defaults(generation: Mapping[str, Any]) -> SamplingParams:
    """Defaults of generation_config.json; do_sample false means greedy."""
    names = {name: name for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}
    values = {ours: generation.get(theirs) for theirs, ours in ({**names, "max_new_tokens": "max_tokens"}).items()}
    if generation.get("do_sample") is False:
        values = {"temperature": 0.0, "max_tokens": values["max_tokens"]}
    try:
        return SamplingParams(**{name: value for name, value in values.items() if value is not None})
    except InvalidSampling as error:
        raise CheckpointError(f"generation_config.json: {error}") from error
