"""Runner for ONNX Runtime through its generate() library; weights is a folder of its model builder."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from benchmarks.peers.protocol import Engine, Request, answer


def load(request: Request) -> Engine:
    """Load with the requested threads; every run has a generator, and so a cache, of its own."""
    import onnxruntime_genai as og

    config = og.Config(request.weights)
    threads = {"intra_op_num_threads": request.threads}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
    model = og.Model(config)
    vocabulary = json.loads((Path(request.weights) / "genai_config.json").read_text())["model"]["vocab_size"]
    random = np.random.default_rng(request.seed)

    def run(prompt: int, sequences: int, steps: int) -> tuple[float, float]:
        params = og.GeneratorParams(model)
        longest = prompt + steps + 1
        params.set_search_options(max_length=longest, min_length=longest, batch_size=sequences, do_sample=False)
        generator = og.Generator(model, params)
        tokens = random.integers(0, vocabulary, (sequences, prompt), dtype=np.int32)
        start = time.perf_counter()
        generator.append_tokens(tokens)
        generator.generate_next_token()  # only draws: the network has run above
        read = time.perf_counter()
        for _ in range(steps):
            generator.generate_next_token()
        decoded = time.perf_counter()
        return sequences * prompt / (read - start), sequences * steps / (decoded - read)

    return Engine(version=og.__version__, run=run)


if __name__ == "__main__":
    answer(load)
