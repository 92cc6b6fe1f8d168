"""Small GGUF files, and how one is damaged."""

from __future__ import annotations

import json
import random
from pathlib import Path

from benchmarks.networks import TOY, TOY_DENSE, write_network
from tests.text.conftest import sentencepiece_style
from tests.weights.make_gguf import read_everything, write_gguf
from twofold.demo import model_folder

EDGES = (0, 1, 7, 9, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "vocab_size": 64, "intermediate_size": 32}  # fmt: skip
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}  # fmt: skip


def small_files(place: Path) -> list[bytes]:
    """Small whole files of both architectures and both kinds of vocabulary."""
    found = []
    configs = {
        "llama4": {**TOY, **TINY, "intermediate_size_mlp": 32, "num_local_experts": 2},
        "llama": {**TOY_DENSE, **TINY, "rope_scaling": LLAMA3_ROPE},
    }
    for family, config in configs.items():
        folder = place / family
        folder.mkdir()
        write_network(config, folder, shards=1)
        (folder / "config.json").write_text(json.dumps(config))
        if family == "llama":
            sentencepiece_style().save(str(folder / "tokenizer.json"))
        else:
            (folder / "chat_template.jinja").write_text((model_folder() / "chat_template.jinja").read_text())
        for kind in ("Q4_0", "Q4_1", "F16"):
            write_gguf(folder, folder / f"{kind}.gguf", kind)
            read_everything(folder / f"{kind}.gguf")
            found.append((folder / f"{kind}.gguf").read_bytes())
    return found


def mutate(data: bytes, rng: random.Random) -> bytes:
    """The file with one to four changes, mostly near its beginning."""
    changed = bytearray(data)
    reach = rng.choice([200, 1500, len(data)])
    for _ in range(rng.choice([1, 1, 2, 4])):
        place = rng.randrange(max(1, min(reach, len(changed))))
        match rng.randrange(6):
            case 0:
                changed[place : place + 1] = rng.randbytes(1)
            case 1:
                changed[place : place + 1] = bytes([changed[place] ^ 1 << rng.randrange(8)]) if changed else b""
            case 2:
                width = rng.choice([4, 8])
                changed[place : place + width] = (rng.choice(EDGES) % 256**width).to_bytes(width, "little")
            case 3:
                del changed[place : place + rng.choice([1, 4, 8, 100])]
            case 4:
                changed[place:place] = rng.randbytes(rng.choice([1, 4, 8, 32]))
            case _:
                del changed[rng.randrange(len(changed) + 1) :]
    return bytes(changed)
