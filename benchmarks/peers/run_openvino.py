"""Runner for OpenVINO on the CPU, with its defaults for the cache (eight bits) and activations; weights is a folder."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks.peers.protocol import Engine, Request, answer


def load(request: Request) -> Engine:
    """Compile the model for latency; a fresh state per run."""
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": request.threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(Path(request.weights) / "model.xml", "CPU", settings)
    vocabulary = int(compiled.output(0).partial_shape[2].get_length())
    random = np.random.default_rng(request.seed)

    def run(prompt: int, sequences: int, steps: int) -> tuple[float, float]:
        infer = compiled.create_infer_request()
        tokens = random.integers(0, vocabulary, (sequences, prompt))
        beams = np.arange(sequences, dtype=np.int32)

        def step(tokens: np.ndarray, first: int) -> np.ndarray:
            positions = np.arange(first, first + tokens.shape[1])[None]
            found = infer.infer({"input_ids": tokens, "position_ids": positions, "beam_idx": beams}, share_inputs=True)
            chosen: np.ndarray = found[0][:, -1].argmax(axis=-1)[:, None]
            return chosen

        start = time.perf_counter()
        chosen = step(tokens, 0)
        read = time.perf_counter()
        for index in range(steps):
            chosen = step(chosen, prompt + index)
        decoded = time.perf_counter()
        return sequences * prompt / (read - start), sequences * steps / (decoded - read)

    return Engine(version=ov.__version__, run=run)


if __name__ == "__main__":
    answer(load)
