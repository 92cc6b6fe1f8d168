"""Runner for twofold; weights is a packed folder or a checkpoint."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version

from benchmarks.peers.protocol import Engine, Request, answer
from twofold.api import LLM
from twofold.bench.speed import read_and_decode


def load(request: Request) -> Engine:
    """Load with guessing off: every token is one step of the network."""
    llm = LLM(
        request.weights,
        threads=request.threads,
        context=request.context,
        max_sequences=request.most_sequences,
        guess_tokens=0,
        **request.options,
    )

    def run(prompt: int, sequences: int, steps: int, is_alike: bool = False) -> tuple[float, float]:
        return read_and_decode(llm, prompt, sequences, steps, seed=request.seed, is_alike=is_alike)

    return Engine(version=version("twofold"), run=run, run_alike=partial(run, is_alike=True), settle=llm.settle)


if __name__ == "__main__":
    answer(load)
