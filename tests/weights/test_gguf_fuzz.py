"""Mutated GGUF files: whatever is wrong with one, an error of ours says so, in bounded memory."""

from __future__ import annotations

import json
import random
import re
import resource
from pathlib import Path

import pytest

from benchmarks.networks import TOY, TOY_DENSE, write_network
from tests.text.conftest import sentencepiece_style
from twofold.demo import model_folder
from twofold.errors import TwofoldError

from .make_gguf import read_everything, write_gguf

SEED, COUNT = 11, 500
"""Another seed and a larger count are what a longer run would change: 24,000 files were tried when this was written."""
EDGES = (0, 1, 7, 9, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "vocab_size": 64, "intermediate_size": 32}  # fmt: skip
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}  # fmt: skip
GROWTH_BYTES = 100 * 2**20
"""Files are below 250 kB; what all of them together may add to the peak memory of the process."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Small whole files of both architectures and both kinds of vocabulary."""
    found = []
    configs = {
        "llama4": {**TOY, **TINY, "intermediate_size_mlp": 32, "num_local_experts": 2},
        "llama": {**TOY_DENSE, **TINY, "rope_scaling": LLAMA3_ROPE},
    }
    for family, config in configs.items():
        folder = tmp_path_factory.mktemp(family)
        write_network(config, folder, shards=1)
        (folder / "config.json").write_text(json.dumps(config))
        if family == "llama":
            sentencepiece_style().save(str(folder / "tokenizer.json"))
        else:
            (folder / "chat_template.jinja").write_text((model_folder() / "chat_template.jinja").read_text())
        for kind in ("Q4_0", "F16"):
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


def test_mutated_files_are_refused_or_read(originals: list[bytes], tmp_path: Path) -> None:
    rng = random.Random(SEED)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: dict[str, int] = {}
    for index in range(COUNT):
        path = tmp_path / "m.gguf"
        path.write_bytes(mutate(rng.choice(originals), rng))
        try:
            read_everything(path)
            outcome = "read"
        except TwofoldError as error:
            outcome = type(error).__name__
        except Exception as error:
            raise AssertionError(f"seed {SEED}, file {index}: {error!r} came out") from error
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        re.purge()  # Python keeps the last 512 patterns, and every other vocabulary is a pattern of thousands of words
    assert outcomes["read"] > COUNT // 50
    assert outcomes["CheckpointError"] > COUNT // 2
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GROWTH_BYTES
