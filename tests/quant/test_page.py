"""The page shows every matrix and every expert, and is well-formed."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from twofold.quant.page import logarithmic, page, place_of


def row(name: str, **more: Any) -> dict[str, Any]:
    record = {"name": name, "method": "gptq", "format": "int4", "bits": 4.125, "relative_error": 0.01, "tokens": 9}
    return {**record, "output_error": 0.001, "forced": 0, "clipped": 0.05, "damping": 0.01, **more}


class Counter(HTMLParser):
    """Counts tags and keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_matrix_has_a_row_and_every_expert_a_bar() -> None:
    matrices = [
        row("embedding", method="round", output_error=None, damping=None, tokens=0),
        row("layers.0.qkv"),
        row("layers.0.experts_gate_up.0", tokens=90),
        row("layers.0.experts_gate_up.1", tokens=20, forced=15),
        row("layers.0.experts_down.0"),
    ]
    report = {
        "scheme": "w4a8",
        "method": "gptq",
        "calibration": {"texts": 3, "tokens": 99},
        "size_bytes": 12_000_000,
        "rare_experts": ["layers.0.experts_gate_up.1"],
        "experts_without_tokens": [],
        "matrices": matrices,
    }
    counter = Counter()
    counter.feed(page(report))
    assert counter.tags["tr"] == 1 + len(matrices)
    assert (
        counter.tags["rect"] == 4 + 2 + 1
    )  # four parts of one layer each, two experts, one of them with forced tokens
    assert "expert 1: 20 tokens, 15 forced" in counter.text
    assert "1 expert matrices were given more" in counter.text


def test_what_mixed_chose_has_a_row_for_every_part() -> None:
    groups = [
        {"name": "layer 0 attention", "format": "int8", "memory_bytes": 9, "damages": {"bf16": 0.0, "int4": 0.0125}},
        {"name": "head", "format": "int4", "memory_bytes": 9, "damages": {"bf16": 0.0, "int4": 0.5, "refined": 0.25}},
    ]
    figures = {"bits_per_weight": 5.4, "memory_bytes": 10**7, "read_bytes_per_token": 10**6, "tokens": 99, "texts": 3}
    choice = {"budget": "a < b", **figures, "predicted_kl": 0.02, "measured_kl": 0.01, "groups": groups}
    calibration = {"texts": 3, "tokens": 99}
    lists: dict[str, list[str]] = {"rare_experts": [], "experts_without_tokens": [], "matrices": []}
    counter = Counter()
    counter.feed(
        page(
            {
                "scheme": "mixed",
                "method": "gptq",
                "size_bytes": 1,
                "calibration": calibration,
                **lists,
                "choice": choice,
            }
        )
    )
    assert counter.tags["tr"] == 1 + len(groups) + 1
    assert "Budget: a < b. 5.400 bits per weight" in counter.text
    assert "layer 0 attentionint89e-0600.0125head" in counter.text


def test_places_and_heights() -> None:
    assert place_of("layers.3.experts_down.7") == ("layer 3", "experts_down")
    assert place_of("head") == ("head", "embedding and head")
    assert [logarithmic(value) for value in (0.0, 1e-7, 1e-3, 1.0)] == [0.0, 0.0, 0.5, 1.0]
