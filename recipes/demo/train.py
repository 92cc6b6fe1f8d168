"""Trains the demo model; resumable, on a CPU in one to two hours.

    python -m recipes.demo.tokenizer build/demo
    python -m recipes.demo.train build/demo --minutes 85

Matrices are trained by Muon (Jordan et al. 2024), embedding, head, router and norms by AdamW.
The learning rate and the length of the rows follow the share of the time that has passed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from recipes.demo.data import FIRST_SHARES, SHARES, Rows, Source
from recipes.demo.network import Network, Shape

MATRIX_RATE, TABLE_RATE = 0.02, 3e-3
BALANCE_WEIGHT = 0.1
STAGES = (
    *((0.0, 64, 40), (0.12, 128, 24), (0.28, 256, 14), (0.60, 512, 8)),
    *((0.93, 1024, 4), (0.985, 2048, 2)),
)
"""Share of the time from which a stage holds, row length, rows per step: copying is found soonest in short rows."""
COPYING_UNTIL = 0.3
"""Share of the time for which FIRST_SHARES hold."""
DOUBT_FROM = 0.70
"""Share of the time from which many questions have no answer in the text: telling so is learnt last."""


class Muon:
    """Momentum, orthogonalised by five Newton-Schulz iterations; stacks of matrices are handled together."""

    def __init__(self, parameters: list[torch.nn.Parameter], momentum: float = 0.95) -> None:
        self.parameters = parameters
        self.momentum = momentum
        self.buffers = [torch.zeros_like(parameter) for parameter in parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update; gate and up of the experts are two matrices in one tensor."""
        for parameter, buffer in zip(self.parameters, self.buffers, strict=True):
            gradient = parameter.grad
            assert gradient is not None
            buffer.lerp_(gradient, 1 - self.momentum)
            update = gradient.lerp(buffer, self.momentum)
            parts = update.chunk(2, dim=-1) if update.dim() == 3 and update.shape[-1] == update.shape[-2] else [update]
            flat = torch.cat([orthogonal(part) for part in parts], dim=-1)
            scale = max(1.0, parts[0].shape[-2] / parts[0].shape[-1]) ** 0.5
            parameter.add_(flat.to(parameter.dtype), alpha=-rate * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrix, roughly: quintic Newton-Schulz in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Trainer:
    """Network, optimisers, data and the clock."""

    def __init__(self, folder: Path, minutes: float) -> None:
        torch.manual_seed(1)
        self.folder, self.seconds = folder, minutes * 60
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.network = Network(Shape())
        matrices, tables = split_parameters(self.network)
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(tables, lr=TABLE_RATE, betas=(0.9, 0.97), weight_decay=0.0)
        self.elapsed, self.steps, self.tokens = 0.0, 0, 0
        self.resume()
        self.padding = self.tokenizer.token_to_id("<|end_of_text|>")
        self.train_rows = Source(self.tokenizer, seed=100 + self.steps)
        self.judge_rows = Source(self.tokenizer, seed=7, held_out=True).rows(96, 256)

    @property
    def share(self) -> float:
        """Share of the planned time that has passed."""
        return min(1.0, self.elapsed / self.seconds)

    def rate_factor(self) -> float:
        """Warm-up, constant, then linear to zero over the second half."""
        return min(1.0, (self.steps + 1) / 40, (1.0 - self.share) / 0.5)

    def run(self) -> None:
        """Train until the time is over, saving and judging every few minutes."""
        last_report, last_save = self.elapsed, self.elapsed
        while self.share < 1.0:
            start = time.perf_counter()
            losses = self.step()
            self.elapsed += time.perf_counter() - start
            if self.steps % 50 == 0:
                print(f"step {self.steps} tokens {self.tokens / 1e6:.2f}M time {self.elapsed / 60:.1f}min "
                      f"loss {losses:.3f} {self.tokens / self.elapsed:.0f} tokens/s", flush=True)  # fmt: skip
            if self.elapsed - last_report > 180:
                last_report = self.elapsed
                self.report()
            if self.elapsed - last_save > 240:
                last_save = self.elapsed
                self.save()
        self.save()
        self.report()

    def step(self) -> float:
        """One update of all parameters; the loss is returned."""
        length, count = next((length, rows) for start, length, rows in reversed(STAGES) if self.share >= start)
        shares = FIRST_SHARES if self.share < COPYING_UNTIL else SHARES
        self.train_rows.unanswerable = 0.3 if self.share >= DOUBT_FROM else 0.15
        rows = self.train_rows.rows(count, length, shares)
        hidden = self.network(torch.from_numpy(rows.ids), self.padding)
        loss = weighted_loss(self.network, hidden, rows)
        (loss + BALANCE_WEIGHT * self.network.balance).backward()
        factor = self.rate_factor()
        torch.nn.utils.clip_grad_norm_(self.adam.param_groups[0]["params"], 1.0)
        for group in self.adam.param_groups:
            group["lr"] = TABLE_RATE * factor
        self.adam.step()
        self.muon.step(MATRIX_RATE * factor)
        self.network.zero_grad(set_to_none=True)
        self.steps += 1
        self.tokens += rows.ids.size
        return float(loss.detach())

    @torch.no_grad()
    def report(self) -> None:
        """Held-out loss and exactness per skill, and the load of the experts."""
        losses: dict[str, list[float]] = {skill: [] for skill in SHARES}
        exact: dict[str, list[float]] = {skill: [] for skill in SHARES}
        loads = []
        rows = self.judge_rows
        for start in range(0, len(rows.ids), 8):
            ids, weights = (
                torch.from_numpy(rows.ids[start : start + 8]),
                torch.from_numpy(rows.weights[start : start + 8]),
            )
            logits = self.network.lm_head(self.network(ids, self.padding))[:, :-1].float()
            loads.append(self.network.load)
            errors = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
            right = logits.argmax(-1) == ids[:, 1:]
            for row in range(len(ids)):
                skill = rows.skills[start + row]
                answer = weights[row, 1:] >= 1
                losses[skill].append(float(errors[row][answer].mean()))
                exact[skill] += spans_right(right[row], answer)
        load = torch.stack(loads).mean(0) * self.network.shape.experts
        report = {
            "minutes": round(self.elapsed / 60, 1),
            "loss": {skill: round(sum(v) / max(1, len(v)), 4) for skill, v in losses.items()},
            "exact": {skill: round(sum(v) / max(1, len(v)), 4) for skill, v in exact.items() if skill != "prose"},
            "least_load": round(float(load.min()), 3),
            "most_load": round(float(load.max()), 3),
        }
        print("held-out", json.dumps(report), flush=True)

    def save(self) -> None:
        """Write the whole state under a temporary name, then rename."""
        state = {
            "network": self.network.state_dict(), "adam": self.adam.state_dict(), "muon": self.muon.buffers,
            "clock": (self.elapsed, self.steps, self.tokens),
        }  # fmt: skip
        temporary = self.folder / "state.tmp"
        torch.save(state, temporary)
        temporary.rename(self.folder / "state.pt")

    def resume(self) -> None:
        """Go on from a saved state, if there is one."""
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.adam.load_state_dict(state["adam"])
        self.muon.buffers = state["muon"]
        self.elapsed, self.steps, self.tokens = state["clock"]


def split_parameters(network: Network) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """Hidden matrices for Muon; embedding, head, router and norms for AdamW."""
    matrices, tables = [], []
    for name, parameter in network.named_parameters():
        is_table = parameter.dim() < 2 or any(part in name for part in ("embed_tokens", "lm_head", "router"))
        (tables if is_table else matrices).append(parameter)
    return matrices, tables


def weighted_loss(network: Network, hidden: Tensor, rows: Rows) -> Tensor:
    """Mean cross-entropy of the tokens that weigh anything."""
    weights = torch.from_numpy(rows.weights[:, 1:])
    picked = weights > 0
    targets = torch.from_numpy(rows.ids[:, 1:])[picked]
    logits = network.lm_head(hidden[:, :-1][picked])
    errors = F.cross_entropy(logits.float(), targets, reduction="none")
    return (errors * weights[picked]).sum() / weights[picked].sum()


def spans_right(right: Tensor, answer: Tensor) -> list[float]:
    """1.0 for every answer whose tokens are all predicted, given the ones before: greedy decoding would give it."""
    spans, current = [], None
    for is_right, inside in zip(right.tolist(), answer.tolist(), strict=True):
        if inside:
            current = is_right and (current is None or current)
        elif current is not None:
            spans.append(float(current))
            current = None
    return spans


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="Train the demo model; go on where a run before it stopped.")
    parser.add_argument("folder", type=Path, help="holds tokenizer.json; state.pt is written there")
    parser.add_argument("--minutes", type=float, default=85, help="training time; a resumed run goes on counting")
    arguments = parser.parse_args()
    trainer = Trainer(arguments.folder, arguments.minutes)
    trainer.run()


if __name__ == "__main__":
    main()
