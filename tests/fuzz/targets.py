"""What is fuzzed: for every kind of file some sound folders, how one is damaged, and how it is opened and read.

Another kind of file is another Target in TARGETS.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

from tests.fuzz.gguf_files import mutate as mutate_gguf
from tests.fuzz.gguf_files import small_files
from tests.fuzz.mutate import mutate_bytes, mutate_container, mutate_json_file
from tests.fuzz.seeds import (
    Files,
    config_folders,
    container_folders,
    model_folders,
    module_folders,
    sharded_folders,
    tokenizer_folders,
)
from tests.weights.damage import read_all
from tests.weights.make_gguf import read_everything
from twofold.config import Settings, choose_dtype, resolve
from twofold.loading import check_fits, open_model
from twofold.models.registry import read_architecture
from twofold.networks import read_weights
from twofold.ops.cost import cache_bytes
from twofold.ops.reference import ReferenceOps
from twofold.text.chat import ChatTemplate, encode_chat
from twofold.text.tokenizer import Tokenizer, check_vocabulary
from twofold.weights.checkpoint import Checkpoint, read_json
from twofold.weights.codecs import codec_of, read_quantised_config
from twofold.weights.quantised import QuantisedCheckpoint
from twofold.weights.safetensors import SafetensorsFile

Mutate = Callable[[Files, Random], Files]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One kind of input.

    share: its part of all inputs, in thousandths. folders(): sound folders, each as file names and their bytes.
    mutate(files, random): the files that change, with their new bytes. read(folder): open and read as users would;
    only errors of twofold may come out of it.
    """

    name: str
    share: int
    folders: Callable[[], list[Files]]
    mutate: Mutate
    read: Callable[[Path], None]


def mutate_one(files: Files, random: Random, odds: Mapping[str, float]) -> Files:
    """One file damaged in the manner of its kind; `odds` are weights by the end of its name, 1 where none fits."""
    names = list(files)
    weights = [next((odd for end, odd in odds.items() if name.endswith(end)), 1.0) for name in names]
    name = random.choices(names, weights)[0]
    if random.random() < 0.01:
        return {name: b""}
    if name.endswith((".safetensors", ".twofold")):
        return {name: mutate_container(files[name], random)}
    if name.endswith(".json"):
        return {name: mutate_json_file(files[name], random)}
    return {name: mutate_bytes(files[name], random)}


def mutating(**odds: float) -> Mutate:
    """mutate_one with weights by kind of file: ending (without the dot) to weight."""
    return partial(mutate_one, odds={f".{end}": odd for end, odd in odds.items()})


def read_container(folder: Path) -> None:
    """Every tensor of one file, inside its bounds."""
    path = folder / "model.safetensors"
    file = SafetensorsFile(path)
    tensors = [file.tensor(name) for name in file.entries]
    assert sum(tensor.nbytes for tensor in tensors) <= path.stat().st_size
    assert all(tensor.shape == file.entries[name].shape for name, tensor in zip(file.entries, tensors, strict=True))
    for tensor in tensors:
        tensor.tobytes()


def read_shards(folder: Path) -> None:
    """Every tensor of a folder with an index."""
    checkpoint = Checkpoint.open(folder)
    for name in checkpoint.names:
        checkpoint.tensor(name).tobytes()
    assert checkpoint.size_bytes <= sum(path.stat().st_size for path in folder.iterdir())


def read_config(folder: Path) -> None:
    """The architecture, its weight table for an empty checkpoint, and what its cache costs."""
    architecture = read_architecture(read_json(folder, "config.json"))
    architecture.targets(())
    cache_bytes(architecture.cache_shape, 1024, "bf16")


def read_modules(folder: Path) -> None:
    """Every quantised module through its codec."""
    codec = codec_of(read_quantised_config(folder))
    checkpoint = Checkpoint.open(folder)
    if codec is not None:
        store = QuantisedCheckpoint(checkpoint, codec)
        read_all(store)
        for name in store.parts:
            store.source_format(name)
            assert np.prod(store.shape(name), dtype=np.float64) <= 64 * store.size_bytes


def read_model(folder: Path) -> None:
    """A whole model, up to the network that is ready to run."""
    model = open_model(folder)
    dtype = choose_dtype(Settings(), model.packed_dtype, model.quantised_dtype)
    per_token = cache_bytes(model.architecture.cache_shape, 1, "bf16")
    check_fits(model, resolve(Settings(), ("cpu", "cpu"), dtype, "bf16", model.architecture.context, per_token))
    model.architecture.bind(read_weights(model, dtype, ReferenceOps("f32").packer, None))


def read_tokenizer(folder: Path) -> None:
    """Tokenizer and template, used once."""
    tokenizer = Tokenizer.load(folder)
    check_vocabulary(tokenizer, 4096)
    tokenizer.decode(tokenizer.encode("Hello, wörld <|eot|> 123", bos=True))
    template = ChatTemplate.load(folder, "llama4")
    encode_chat(tokenizer, template, [{"role": "system", "content": "s"}, {"role": "user", "content": "Hello <|eot|>"}])


def gguf_folders() -> list[Files]:
    """Small GGUF models of both architectures."""
    with tempfile.TemporaryDirectory() as folder:
        return [{"model.gguf": data} for data in small_files(Path(folder))]


def mutate_gguf_model(files: Files, random: Random) -> Files:
    """The file of a GGUF model, damaged."""
    return {"model.gguf": mutate_gguf(files["model.gguf"], random)}


def read_gguf(folder: Path) -> None:
    """All of a GGUF model. Every vocabulary is a pattern of thousands of words, and Python keeps the last 512."""
    try:
        read_everything(folder / "model.gguf")
    finally:
        re.purge()


TARGETS = (
    Target(
        name="safetensors",
        share=300,
        folders=container_folders,
        mutate=mutating(),
        read=read_container,
    ),
    Target(
        name="shards",
        share=100,
        folders=sharded_folders,
        mutate=mutating(json=3),
        read=read_shards,
    ),
    Target(
        name="config",
        share=230,
        folders=config_folders,
        mutate=mutating(),
        read=read_config,
    ),
    Target(
        name="modules",
        share=250,
        folders=module_folders,
        mutate=mutating(json=0.5),
        read=read_modules,
    ),
    Target(
        name="models",
        share=40,
        folders=model_folders,
        mutate=mutating(json=1),
        read=read_model,
    ),
    Target(
        name="tokenizers",
        share=30,
        folders=tokenizer_folders,
        mutate=mutating(),
        read=read_tokenizer,
    ),
    Target(
        name="gguf",
        share=50,
        folders=gguf_folders,
        mutate=mutate_gguf_model,
        read=read_gguf,
    ),
)
