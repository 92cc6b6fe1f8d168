"""Where a model's config, tokenizer, template and weights come from: a folder as on the hub, or a GGUF file."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from twofold.errors import MissingTensor
from twofold.export.manifest import WEIGHTS_NAME, ExportedGraph, is_exported
from twofold.models.gguf_config import TensorFacts, architecture_of, gguf_config
from twofold.text.chat import ChatTemplate
from twofold.text.gguf_vocabulary import end_ids, read_gguf_tokenizer, templates_of
from twofold.text.tokenizer import Tokenizer
from twofold.weights.checkpoint import Checkpoint, read_json
from twofold.weights.codecs import codec_of, read_quantised_config
from twofold.weights.gguf_checkpoint import GgufCheckpoint, experts_of, layers_of, rope_factors_of
from twofold.weights.gguf_parts import GgufParts, find_gguf
from twofold.weights.kv_verdict import FILE_NAME as VERDICT_NAME
from twofold.weights.packed_file import FILE_NAME, PackedFile
from twofold.weights.quantised import QuantisedCheckpoint, Store
from twofold.weights.write import write_json

SIDE_FILES = ("*.json", "*.jinja", "tokenizer.model")
"""What belongs to a model beside its weights."""
SAMPLING_KEYS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}


class ModelFiles(Protocol):
    """All that is known of a model, read when asked for. Every method raises CheckpointError for damaged files."""

    path: Path

    @property
    def config(self) -> dict[str, Any]:
        """config.json."""
        ...

    @property
    def generation(self) -> dict[str, Any]:
        """generation_config.json; empty where there is none."""
        ...

    def store(self) -> Store | PackedFile | ExportedGraph:
        """The weights."""
        ...

    def weight_files(self) -> list[Path]:
        """The files they are in, in an order that does not change."""
        ...

    def tokenizer(self) -> Tokenizer:
        """The tokenizer; raises TokenizerError."""
        ...

    def template(self, family: str) -> ChatTemplate:
        """The chat template, or the built-in one of the family; raises TemplateError."""
        ...

    def copy_to(self, folder: Path) -> None:
        """Write config, tokenizer and template, so that only weights are lacking."""
        ...


def open_files(path: Path) -> ModelFiles:
    """The files of a model: of a GGUF file, of a folder with nothing but one GGUF model, or of a folder."""
    if path.is_file():
        return GgufFiles(path)
    has_others = is_exported(path) or (path / FILE_NAME).exists() or any(path.glob("*.safetensors*"))
    found = None if has_others else find_gguf(path)
    return GgufFiles(found) if found else FolderFiles(path)


class FolderFiles:
    """A folder with config.json, tokenizer files and *.safetensors, or packed by twofold."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def config(self) -> dict[str, Any]:
        """See ModelFiles, as for all below."""
        return read_quantised_config(self.path)

    @cached_property
    def generation(self) -> dict[str, Any]:
        """See ModelFiles."""
        name = "generation_config.json"
        return read_json(self.path, name) if (self.path / name).exists() else {}

    def store(self) -> Store | PackedFile | ExportedGraph:
        """Exported, packed, quantised or plain."""
        if is_exported(self.path):
            return ExportedGraph.open(self.path)
        codec = codec_of(self.config)
        if (self.path / FILE_NAME).exists():
            return PackedFile.open(self.path / FILE_NAME)
        checkpoint = Checkpoint.open(self.path)
        return checkpoint if codec is None else QuantisedCheckpoint(checkpoint, codec)

    def weight_files(self) -> list[Path]:
        """See ModelFiles."""
        return sorted([path for name in ("*.safetensors", FILE_NAME, WEIGHTS_NAME) for path in self.path.glob(name)])

    def tokenizer(self) -> Tokenizer:
        """See ModelFiles."""
        return Tokenizer.load(self.path)

    def template(self, family: str) -> ChatTemplate:
        """See ModelFiles."""
        return ChatTemplate.load(self.path, family)

    def copy_to(self, folder: Path) -> None:
        """Copies, the index of the weights left out."""
        for pattern in SIDE_FILES:
            for path in self.path.glob(pattern):
                if not path.name.endswith(".index.json") and path.name != VERDICT_NAME:
                    shutil.copyfile(path, folder / path.name)


class GgufFiles:
    """A GGUF file, or several parts of one, in which everything is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts = GgufParts(path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """As the model's config.json was, found again from metadata and tensors."""
        parts = self.parts
        architecture_of(parts.metadata)
        if "token_embd.weight" not in parts.homes:
            raise MissingTensor(f"{self.path} has no tensor 'token_embd.weight'. Download the file again.")
        facts = TensorFacts(
            layers=layers_of(parts),
            experts=experts_of(parts),
            vocabulary=parts.shape("token_embd.weight")[0],
            has_head="output.weight" in parts.homes,
            rope_divisors=rope_factors_of(parts),
        )
        return {**gguf_config(parts.metadata, facts), "eos_token_id": end_ids(parts.metadata)}

    @cached_property
    def generation(self) -> dict[str, Any]:
        """The few settings of sampling that a file may have."""
        metadata = self.parts.metadata
        found = {name: metadata[key] for key, name in SAMPLING_KEYS.items() if key in metadata}
        return {**found, "eos_token_id": self.config["eos_token_id"]}

    def store(self) -> GgufCheckpoint:
        """Decoded while it is read."""
        config, family = self.config, architecture_of(self.parts.metadata)
        return GgufCheckpoint(self.parts, family, config["num_attention_heads"], config["num_key_value_heads"])

    def weight_files(self) -> list[Path]:
        """See ModelFiles."""
        return [file.path for file in self.parts.files]

    def tokenizer(self) -> Tokenizer:
        """See ModelFiles."""
        return Tokenizer.build(*read_gguf_tokenizer(self.parts.metadata))

    def template(self, family: str) -> ChatTemplate:
        """See ModelFiles."""
        return ChatTemplate.of(templates_of(self.parts.metadata), family)

    def copy_to(self, folder: Path) -> None:
        """Written as the hub has them."""
        core, config = read_gguf_tokenizer(self.parts.metadata)
        core.save(str(folder / "tokenizer.json"))
        write_json(folder / "tokenizer_config.json", config)
        write_json(folder / "config.json", self.config)
        write_json(folder / "generation_config.json", self.generation)
