"""What is known of a network before its weights are here: architecture, weight table and formats, from its config.

    config.json, a folder with one, a GGUF file, a hub id whose config lies in the hub's cache, or "demo"

Nothing is downloaded. Where the weights are there and have bits of their own (packed, quantised, GGUF), their headers
say which; else only the config is read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold import demo
from twofold.errors import CheckpointError, ModelNotFound
from twofold.loading import open_model
from twofold.model_files import open_files
from twofold.models.registry import read_architecture
from twofold.models.vision_size import vision_parameters
from twofold.ops.cost import Footprint, footprint
from twofold.ops.formats import Formats
from twofold.ops.types import CacheShape, Role, Target
from twofold.quant.schemes import quantised_formats, scheme
from twofold.weights.codecs import codec_of
from twofold.weights.hub import check_id, find_snapshot, hub_cache, looks_like_path, missing_files
from twofold.weights.strict_json import read_json

FP8 = "fp8"
PLANNED = ("bf16", "w8a8", "w4a8", FP8)
"""Schemes whose bytes follow from the config alone; fp8 is what `twofold quantize --scheme fp8` writes."""


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A network without its weights.

    own: name of the scheme its files hold, with the format of every weight, None where they hold plain weights or are
    not there. vision_parameters: of the part for images, which is not read.
    """

    name: str
    kind: str
    layers: int
    hidden: int
    heads: int
    context: int
    active_experts: int
    expert_count: int
    cache_shape: CacheShape
    targets: tuple[Target, ...]
    own: tuple[str, Formats] | None
    vision_parameters: int
    warnings: tuple[str, ...]

    @property
    def has_tied_head(self) -> bool:
        """Whether the embedding is the head too."""
        return not any(target.role == "head" for target in self.targets)

    @property
    def schemes(self) -> tuple[str, ...]:
        """What it can be planned as: as its files hold it first, where that is none of the others."""
        if self.own is None or self.own[0] in PLANNED:
            return PLANNED
        return (self.own[0], *PLANNED)

    def formats(self, name: str) -> Formats:
        """The format of every weight in a scheme; SettingsError for an unknown one."""
        if self.own is not None and name == self.own[0]:
            return self.own[1]
        return fp8_formats() if name == FP8 else scheme(name)

    def footprint(self, name: str) -> Footprint:
        """Bytes held and read in a scheme."""
        return footprint(self.targets, self.formats(name), self.active_experts, self.has_tied_head)


def fp8_formats() -> Formats:
    """Layers in float8, the rest as in bf16: router and norms in float32, embedding and head in bfloat16."""
    kinds = quantised_formats(FP8, has_head=True)
    return {role: "fp8" if kinds[role] == "fp8" else form for role, form in scheme("bf16").items()}


def read_blueprint(path_or_id: str | Path) -> Blueprint:
    """Read a network's config; raises ModelNotFound, UnsupportedModel or CheckpointError. Nothing is downloaded."""
    path, has_weights = find(path_or_id)
    raw = read_json(path.parent, path.name) if path.suffix == ".json" else open_files(path).config
    codec_of(raw)
    architecture = read_architecture({key: value for key, value in raw.items() if key != "quantization_config"})
    return Blueprint(
        name=str(path_or_id),
        kind=architecture.name,
        layers=architecture.layers,
        hidden=architecture.hidden,
        heads=architecture.config.heads,
        context=architecture.context,
        active_experts=architecture.active_experts,
        expert_count=architecture.expert_count,
        cache_shape=architecture.cache_shape,
        targets=tuple(architecture.targets(())),  # shapes are the same whatever the checkpoint calls its tensors
        own=own_formats(path) if has_weights else None,
        vision_parameters=vision_of(raw),
        warnings=architecture.warnings,
    )


def own_formats(path: Path) -> tuple[str, Formats] | None:
    """Scheme and formats of weights that have bits of their own."""
    model = open_model(path)
    name = model.own_dtype
    if name is None:
        return None
    formats = model.formats(name)
    roles: tuple[Role, ...] = ("norm", "router")
    return name, {**scheme("bf16"), **dict.fromkeys(roles, "f32"), **formats}


def vision_of(raw: dict[str, Any]) -> int:
    """Parameters of the part for images; 0 where there is none."""
    found = raw.get("vision_config")
    if found is None:
        return 0
    if not isinstance(found, dict):
        raise CheckpointError(f"config.json: vision_config is {found!r}; an object was expected")
    text = raw.get("text_config")
    hidden = text.get("hidden_size", 0) if isinstance(text, dict) else 0
    return vision_parameters(found, hidden)


def find(path_or_id: str | Path) -> tuple[Path, bool]:
    """Where a model's config is, and whether its weights are beside it. Raises ModelNotFound."""
    text = str(path_or_id)
    if text == "demo":
        return demo.model_folder(), True
    path = Path(text).expanduser()
    if text and path.is_dir():
        return path, holds_weights(path)
    if path.is_file() and path.suffix in (".json", ".gguf"):
        return path, path.suffix == ".gguf"
    if path.is_file():
        raise ModelNotFound(f"{text} is a file; a config.json, a *.gguf file or a folder was expected.")
    if looks_like_path(text) or isinstance(path_or_id, Path):
        raise ModelNotFound(f"there is no folder or file {text}. Check the path, or give a hub id such as org/name.")
    check_id(text)
    cache = hub_cache(os.environ)
    snapshot = find_snapshot(cache, text, "main")
    if snapshot is None or not (snapshot / "config.json").is_file():
        raise ModelNotFound(
            f"{text} has no config.json in {cache}, and planning downloads nothing. Run `hf download {text} "
            "config.json` (a few kilobytes), or give the path of a config.json."
        )
    return snapshot, not missing_files(snapshot)


def holds_weights(folder: Path) -> bool:
    """Whether a folder has weights, whole or not; a damaged file is told when its header is read."""
    return any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.twofold", "*.gguf", "*.onnx"))
