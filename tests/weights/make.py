"""Checkpoints for tests and benchmarks: written piece by piece, so that they may be larger than memory.

python -m tests.weights.make FOLDER --gigabytes 4    writes a sharded folder of random Llama-like bfloat16 weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from twofold.ops.types import Source, Target

BLOCK_VALUES = 4 * 2**20
NAMES = {
    np.dtype("f8"): "F64",
    np.dtype("f4"): "F32",
    np.dtype("f2"): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(ml_dtypes.float8_e4m3fn): "F8_E4M3",
    np.dtype("i4"): "I32",
    np.dtype("u1"): "U8",
    np.dtype("i1"): "I8",
    np.dtype("i8"): "I64",
}
Arrays = Mapping[str, np.ndarray[Any, Any]]
Shapes = Mapping[str, tuple[int, ...]]


def header_bytes(entries: Mapping[str, Any], padding: int = 8) -> bytes:
    """Length and header, padded with blanks so that the data begins at a multiple of `padding`."""
    text = json.dumps(entries).encode()
    text += b" " * (-(8 + len(text)) % padding)
    return len(text).to_bytes(8, "little") + text


def header_for(shapes: Shapes, dtype: np.dtype[Any]) -> dict[str, Any]:
    """Header entries of tensors that follow one another."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + int(np.prod(shape)) * dtype.itemsize
        entries[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    return entries


def write_shard(path: Path, arrays: Arrays, padding: int = 8) -> None:
    """One safetensors file with these arrays."""
    entries, end = {}, 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        entries[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    path.write_bytes(header_bytes(entries, padding) + data)


SILENT = ("o_proj", "down_proj")


def write_part(
    source: Path, folder: Path, layers: list[int], config: Mapping[str, Any], silent_from: int | None = None
) -> None:
    """A model made of these layers of one in a single shard (in order, some perhaps several times), with its tokenizer.

    Layers from `silent_from` on add nothing to what passes through them: their last products are zero.
    """
    data = (source / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {name: entry for name, entry in json.loads(data[8:start]).items() if name != "__metadata__"}
    entries: dict[str, Any] = {}
    parts: list[bytes] = []
    end = 0
    for kept, name, is_silent in parts_of(list(found), layers, silent_from):
        begin, stop = found[name]["data_offsets"]
        parts.append(bytes(stop - begin) if is_silent else data[start + begin : start + stop])
        entries[kept] = {**found[name], "data_offsets": [end, end + stop - begin]}
        end += stop - begin
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*.j*"):
        (folder / path.name).write_bytes(path.read_bytes())
    raw = {**json.loads((source / "config.json").read_text()), **config, "num_hidden_layers": len(layers)}
    (folder / "config.json").write_text(json.dumps(raw))
    (folder / "model.safetensors").write_bytes(header_bytes(entries) + b"".join(parts))


def parts_of(names: list[str], layers: list[int], silent_from: int | None) -> Iterator[tuple[str, str, bool]]:
    """New name, old name and whether it becomes zero, for every tensor of write_part."""
    yield from ((name, name, False) for name in names if not name.startswith("model.layers."))
    for new, old in enumerate(layers):
        silent = silent_from is not None and new >= silent_from
        for name in names:
            if name.startswith(f"model.layers.{old}."):
                kept = name.replace(f"layers.{old}.", f"layers.{new}.", 1)
                yield kept, name, silent and any(word in name for word in SILENT)


def split(names: list[str], shards: int) -> list[list[str]]:
    """The names, dealt in order to `shards` lists."""
    step = -(-len(names) // shards)
    return [names[start : start + step] for start in range(0, len(names), step)]


def write_sharded(folder: Path, write: Callable[[Path, list[str]], None], names: list[str], shards: int) -> None:
    """Shards with an index, or model.safetensors alone; `write(path, names)` fills one."""
    if shards == 1:
        write(folder / "model.safetensors", names)
        return
    groups = split(names, shards)
    files = [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    for file, group in zip(files, groups, strict=True):
        write(folder / file, group)
    weight_map = {name: file for file, group in zip(files, groups, strict=True) for name in group}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_arrays(folder: Path, arrays: Arrays, shards: int = 1) -> Path:
    """A checkpoint folder of arrays at hand."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(path: Path, names: list[str]) -> None:
        write_shard(path, {name: arrays[name] for name in names})

    write_sharded(folder, write, list(arrays), shards)
    return folder


def write_checkpoint(
    folder: Path, shapes: Shapes, shards: int = 1, dtype: Any = ml_dtypes.bfloat16, seed: int = 0
) -> Path:
    """A checkpoint folder of random weights (normal, deviation 0.02), whatever their size, in little memory."""
    folder.mkdir(parents=True, exist_ok=True)
    item = np.dtype(dtype)
    random = np.random.default_rng(seed)
    block = (random.standard_normal(BLOCK_VALUES, np.float32) * np.float32(0.02)).astype(item)

    def write(path: Path, names: list[str]) -> None:
        chosen = {name: shapes[name] for name in names}
        with path.open("wb") as file:
            file.write(header_bytes(header_for(chosen, item)))
            for shape in chosen.values():
                write_values(file, int(np.prod(shape)), block, random)

    write_sharded(folder, write, list(shapes), shards)
    return folder


def write_values(file: BinaryIO, count: int, block: np.ndarray[Any, Any], random: np.random.Generator) -> None:
    """`count` values: stretches of the block, each from another start, so that rows do not repeat in step."""
    while count:
        start = int(random.integers(0, len(block) // 2))
        stretch = block[start : start + min(count, len(block) // 2)]
        file.write(stretch.tobytes())
        count -= len(stretch)


def llama_shapes(layers: int, hidden: int, width: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a Llama 2/3 folder with as many key-value heads as query heads and a head of its own."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for part in "qkvo":
            shapes[f"{prefix}.self_attn.{part}_proj.weight"] = (hidden, hidden)
        shapes[f"{prefix}.mlp.gate_proj.weight"] = shapes[f"{prefix}.mlp.up_proj.weight"] = (width, hidden)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, width)
        shapes[f"{prefix}.input_layernorm.weight"] = shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}


def llama4_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json of the text network alone."""
    return {"model_type": "llama4_text", "rms_norm_eps": 1e-5, "rope_theta": 500000.0, **values}


def llama4_shapes(values: Mapping[str, Any], prefix: str = "", are_fused: bool = True) -> dict[str, tuple[int, ...]]:
    """Tensors of a Llama 4 folder with such a config, its experts in stacks or one by one."""
    hidden, width, heads = values["hidden_size"], values["intermediate_size"], values["num_attention_heads"]
    q_rows, kv_rows = heads * values["head_dim"], values["num_key_value_heads"] * values["head_dim"]
    count, step = values["num_local_experts"], values["interleave_moe_layer_step"]
    shapes: dict[str, tuple[int, ...]] = {f"{prefix}model.embed_tokens.weight": (values["vocab_size"], hidden)}

    def add_swiglu(theirs: str, size: int) -> None:
        shapes[f"{theirs}.gate_proj.weight"] = shapes[f"{theirs}.up_proj.weight"] = (size, hidden)
        shapes[f"{theirs}.down_proj.weight"] = (hidden, size)

    for layer in range(values["num_hidden_layers"]):
        theirs = f"{prefix}model.layers.{layer}"
        for part, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
            shapes[f"{theirs}.self_attn.{part}_proj.weight"] = (rows, hidden)
        shapes[f"{theirs}.self_attn.o_proj.weight"] = (hidden, q_rows)
        shapes[f"{theirs}.input_layernorm.weight"] = shapes[f"{theirs}.post_attention_layernorm.weight"] = (hidden,)
        if (layer + 1) % step:
            add_swiglu(f"{theirs}.feed_forward", values["intermediate_size_mlp"])
            continue
        shapes[f"{theirs}.feed_forward.router.weight"] = (count, hidden)
        add_swiglu(f"{theirs}.feed_forward.shared_expert", width)
        if are_fused:
            shapes[f"{theirs}.feed_forward.experts.gate_up_proj"] = (count, hidden, 2 * width)
            shapes[f"{theirs}.feed_forward.experts.down_proj"] = (count, width, hidden)
        for expert in range(0 if are_fused else count):
            add_swiglu(f"{theirs}.feed_forward.experts.{expert}", width)
    return shapes | {
        f"{prefix}model.norm.weight": (hidden,),
        f"{prefix}lm_head.weight": (values["vocab_size"], hidden),
    }


def plain_targets(shapes: Shapes) -> list[Target]:
    """One target per tensor: vectors as norms, matrices as dense weights, stacks as transposed experts."""
    return list(each_target(shapes))


def each_target(shapes: Shapes) -> Iterator[Target]:
    """See plain_targets."""
    for name, shape in shapes.items():
        if len(shape) == 1:
            yield Target(name=name, role="norm", shape=shape, sources=((Source(name=name, shape=shape),),))
        elif len(shape) == 2:
            yield Target(name=name, role="dense", shape=shape, sources=((Source(name=name, shape=shape),),))
        else:
            count, columns, rows = shape
            sources = tuple((Source(name=name, shape=shape, expert=e, transposed=True),) for e in range(count))
            yield Target(name=name, role="expert", shape=(count, rows, columns), sources=sources)


def main() -> None:
    """Write a folder of about so many gigabytes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--shards", type=int, default=4)
    chosen = parser.parse_args()
    hidden, width, vocabulary = 2048, 8192, 32000
    per_layer = (4 * hidden * hidden + 3 * hidden * width) * 2
    layers = max(1, round((chosen.gigabytes * 1e9 - 4 * hidden * vocabulary) / per_layer))
    write_checkpoint(chosen.folder, llama_shapes(layers, hidden, width, vocabulary), chosen.shards)


if __name__ == "__main__":
    main()
