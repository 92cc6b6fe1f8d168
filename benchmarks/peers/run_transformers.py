"""Runner for Hugging Face transformers on the CPU, in bfloat16; weights is a checkpoint folder."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peers.protocol import Engine, Request, answer


def load(request: Request) -> Engine:
    """Load with PyTorch's own attention; the cache is transformers' default."""
    import torch
    import transformers

    torch.set_num_threads(request.threads)
    torch.manual_seed(request.seed)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        request.weights, dtype=torch.bfloat16, attn_implementation="sdpa", local_files_only=True
    ).eval()
    vocabulary = model.config.vocab_size

    @torch.inference_mode()
    def run(prompt: int, sequences: int, steps: int) -> tuple[float, float]:
        tokens = torch.randint(0, vocabulary, (sequences, prompt))
        start = time.perf_counter()
        found = model(tokens, use_cache=True, logits_to_keep=1)
        read = time.perf_counter()
        for _ in range(steps):
            chosen = found.logits[:, -1].argmax(dim=-1, keepdim=True)
            found = model(chosen, past_key_values=found.past_key_values, use_cache=True)
        decoded = time.perf_counter()
        return sequences * prompt / (read - start), sequences * steps / (decoded - read)

    return Engine(version=f"{transformers.__version__}, torch {torch.__version__}", run=run)


if __name__ == "__main__":
    answer(load)
