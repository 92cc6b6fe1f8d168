"""Sound folders to be damaged: small, and together with every branch of the readers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from tests.toys import LLAMA3_ROPE, LLAMA4, SCOUT_ROPE
from tests.weights import test_compressed_tensors, test_gptq_codec, test_scaled_floats, test_stored_codes
from tests.weights.make import llama4_config, llama4_shapes, llama_shapes, write_arrays, write_shard
from twofold.loading import pack_model
from twofold.text.ranks import CHARACTER_OF

Files = Mapping[str, bytes]
Arrays = dict[str, np.ndarray[Any, Any]]
GENERATION = {"eos_token_id": [1, 2], "temperature": 0.6, "top_p": 0.9, "top_k": 40, "do_sample": True}
SMALL = {
    **LLAMA4,
    **{"num_hidden_layers": 2, "no_rope_layers": [1, 0], "hidden_size": 32, "head_dim": 8, "vocab_size": 20},
    **{"num_local_experts": 2, "intermediate_size_mlp": 16, "intermediate_size": 16},
}
LLAMA_CONFIG = {
    **{"model_type": "llama", "vocab_size": 20, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1},
    **{"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128, "rms_norm_eps": 1e-5},
}


def dump(value: object) -> bytes:
    """JSON as bytes."""
    return json.dumps(value).encode()


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def written(arrays: Arrays, shards: int = 1) -> dict[str, bytes]:
    """Arrays as the files of a checkpoint."""
    with tempfile.TemporaryDirectory() as name:
        write_arrays(Path(name), arrays, shards)
        return files_of(Path(name))


def container(arrays: Arrays) -> bytes:
    """Arrays as one safetensors file."""
    with tempfile.TemporaryDirectory() as name:
        write_shard(Path(name) / "x", arrays)
        return (Path(name) / "x").read_bytes()


def container_folders() -> list[Files]:
    """One file each: several dtypes, scalars, nothing in a tensor, no tensor, metadata."""
    several: Arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.ones((4, 2), ml_dtypes.bfloat16),
        "c": np.array(7, np.int64),
        "d": np.zeros((0, 5), np.float16),
        "e": np.ones((3,), ml_dtypes.float8_e4m3fn),
        "f": np.ones((2, 2, 2), np.uint8),
    }
    header = dump({"__metadata__": {"format": "pt"}, "x": {"dtype": "I8", "shape": [2], "data_offsets": [0, 2]}})
    with_metadata = len(header).to_bytes(8, "little") + header + b"ab"
    return [{"model.safetensors": data} for data in (container(several), container({}), with_metadata)]


def sharded_folders() -> list[Files]:
    """Shards with an index."""
    arrays: Arrays = {f"layers.{index}.weight": np.full((2, index + 1), index, np.float32) for index in range(6)}
    return [written(arrays, 2), written(arrays, 3)]


def configs() -> list[dict[str, Any]]:
    """config.json of every architecture, old and new spellings."""
    scout = llama4_config({**LLAMA4, "interleave_moe_layer_step": 1, "rope_scaling": SCOUT_ROPE, "no_rope_layers": []})
    maverick = llama4_config({**LLAMA4, "use_qk_norm": False, "attn_temperature_tuning": 4})
    guard = llama4_config({**LLAMA4, "interleave_moe_layer_step": 0, "moe_layers": [], "attention_chunk_size": None})
    new = llama4_config({**LLAMA4, "layer_types": ["chunked_attention"] * 3 + ["full_attention"], "moe_layers": [1, 3]})
    new["rope_parameters"] = {"rope_type": "llama3", "rope_theta": 5e5, **SCOUT_ROPE}
    llama3 = {**LLAMA_CONFIG, "rope_scaling": LLAMA3_ROPE, "rope_theta": 5e5, "tie_word_embeddings": True}
    whole = {"model_type": "llama4", "text_config": scout, "vision_config": {"hidden_size": 4}, "boi_token_index": 3}
    return [scout, maverick, guard, new, llama3, LLAMA_CONFIG, whole]


def config_folders() -> list[Files]:
    """A config.json each."""
    return [{"config.json": dump(config)} for config in configs()]


def module_folders() -> list[Files]:
    """A quantised module each, in every format there is a codec for."""
    kinds = [
        *({"quant_method": "compressed-tensors", **config} | {"": tensors} for config, tensors in
          test_compressed_tensors.SOUND.values()),
        *({**config, "": tensors} for config, tensors in test_gptq_codec.SOUND.values()),
        *({**config, "": tensors} for config, tensors in test_scaled_floats.SOUND.values()),
        *({**test_stored_codes.CONFIG, "": test_stored_codes.tensors(kind)} for kind in test_stored_codes.KINDS),
    ]  # fmt: skip
    folders: list[Files] = []
    for kind in kinds:
        tensors = kind.pop("")
        folders.append({**written(tensors), "config.json": dump({"quantization_config": kind})})
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    fp8 = written(test_scaled_floats.SOUND["fp8"][1])
    return [*folders, {**fp8, "config.json": b"{}", "hf_quant_config.json": dump(beside)}]


def random_arrays(shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """bfloat16 weights."""
    random = np.random.default_rng(1)
    return {name: random.standard_normal(shape).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}


def fp8_arrays(prefix: str) -> Arrays:
    """A Llama 4 as ModelOpt has it, experts in stacks."""
    arrays = random_arrays(llama4_shapes(SMALL, prefix))
    for name in [name for name in arrays if "proj" in name]:
        arrays[name] = arrays[name].astype(ml_dtypes.float8_e4m3fn)
        scale = f"{name}_scale" if name.endswith(".weight") else f"{name}_weight_scale"
        arrays[scale] = np.array(0.5, np.float32)
    return arrays


def int8_arrays() -> Arrays:
    """A Llama 4 as compressed-tensors has it, experts one by one."""
    arrays = random_arrays(llama4_shapes(SMALL, "", are_fused=False))
    for name in [name for name in arrays if "proj" in name]:
        arrays[name] = (arrays[name].astype(np.float32) * 20).astype(np.int8)
        arrays[f"{name}_scale"] = np.full((len(arrays[name]), 1), 0.05, np.float32)
    return arrays


def model_folders() -> list[Files]:
    """Whole models: plain, multi-modal, quantised by others, packed."""
    beside = {"generation_config.json": dump(GENERATION)}
    outer = {"model_type": "llama4", "text_config": llama4_config(SMALL), "vision_config": {}}
    fp8 = {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["*router*"]}
    weights = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
    int8 = {
        **{"quant_method": "compressed-tensors", "format": "int-quantized", "ignore": ["lm_head"]},
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    llama = {**written(random_arrays(llama_shapes(1, 32, 16, 20))), "config.json": dump(LLAMA_CONFIG), **beside}
    return [
        {**written(random_arrays(llama4_shapes(SMALL)), 2), "config.json": dump(llama4_config(SMALL)), **beside},
        {**written(fp8_arrays("language_model.")), "config.json": dump({**outer, "quantization_config": fp8})},
        {**written(int8_arrays()), "config.json": dump({**llama4_config(SMALL), "quantization_config": int8})},
        llama,
        packed(llama),
    ]


def packed(files: Files) -> dict[str, bytes]:
    """A model after `twofold pack`."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        source.mkdir()
        for file, data in files.items():
            (source / file).write_bytes(data)
        return files_of(pack_model(source, Path(name) / "packed", "w4a8"))


def tokenizer_folders() -> list[Files]:
    """A small byte-level BPE with special tokens and a template, and Meta's rank file."""
    vocabulary = {character: index for index, character in enumerate(CHARACTER_OF)} | {"He": 256, "ll": 257}
    core = tokenizers.Tokenizer(models.BPE(vocabulary, [("H", "e"), ("l", "l")], ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>"]
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    template = (
        "{{ bos_token }}{% for m in messages %}<|header_start|>{{ m.role }}<|header_end|>\n\n{{ m.content | trim }}"
        "<|eot|>{% endfor %}{% if add_generation_prompt %}<|header_start|>assistant<|header_end|>\n\n{% endif %}"
    )
    decoder = {"258": {"content": names[0], "special": True}, "262": {"content": names[4], "special": True}}
    config = {"bos_token": names[0], "eos_token": names[1], "added_tokens_decoder": decoder, "model_max_length": 10**30}
    named = {"bos_token": {"content": names[0], "lstrip": False}, "eos_token": names[1]}
    file = {"tokenizer.json": core.to_str().encode(), "config.json": dump({"model_type": "llama4"})}
    return [
        {**file, "tokenizer_config.json": dump({**config, "chat_template": template})},
        {**file, "tokenizer_config.json": dump(config), "chat_template.jinja": template.encode()},
        {**file, "special_tokens_map.json": dump(named), "tokenizer_config.json": dump({})},
    ]
