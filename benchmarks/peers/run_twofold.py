"""Runner for twofold; weights is a packed folder or a checkpoint."""

from __future__ import annotations

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

    def run(prompt: int, sequences: int, steps: int) -> tuple[float, float]:
        return read_and_decode(llm, prompt, sequences, steps, seed=request.seed)

    return Engine(version=version("twofold"), run=run)


if __name__ == "__main__":
    answer(load)
