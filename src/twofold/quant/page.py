"""The report of a quantisation as a page: one HTML file, pictures drawn in SVG, nothing to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log10
from typing import Any

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;font-size:13px}"
    "td,th{padding:.15em .7em;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}svg{max-width:100%}.part{fill:#4477aa}.forced{fill:#ee6677}"
)
BAR, GAP, HEIGHT, MARGIN = 7, 3, 120, 40
COLUMNS = (
    "name",
    "method",
    "format",
    "bits",
    "relative_error",
    "output_error",
    "tokens",
    "forced",
    "clipped",
    "damping",
)


def page(report: Mapping[str, Any]) -> str:
    """The whole page."""
    rows: Sequence[Mapping[str, Any]] = report["matrices"]
    title = f"Quantised as {report['scheme']}, {report['method']}"
    if report.get("transform", "none") != "none":
        title += f", transform {report['transform']}"
    calibration = report["calibration"]
    facts = (
        f"{len(rows)} matrices, {report['size_bytes'] / 1e6:,.1f} MB in all. "
        f"Calibrated on {calibration['tokens']:,} tokens of {calibration['texts']:,} texts. "
        f"{len(report['rare_experts'])} expert matrices were given more tokens by forced routing; "
        f"{len(report['experts_without_tokens'])} saw none and were rounded plainly."
    )
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(facts)}</p>",
        *choice_tables(report.get("choice")),
        "<h2>Error by layer and part</h2>",
        "<p>Share of each matrix's output energy that rounding cost, on the calibration text; of its own "
        "energy where it saw no text. Bars on a logarithmic scale from 1e-6 to 1.</p>",
        *error_pictures(rows),
        *expert_pictures(rows),
        "<h2>Every matrix</h2>",
        table(rows),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def choice_tables(choice: Mapping[str, Any] | None) -> list[str]:
    """What the scheme mixed chose for every group, and the damage of what it did not choose."""
    if choice is None:
        return []
    facts = (
        f"Budget: {choice['budget']}. {choice['bits_per_weight']:.3f} bits per weight, "
        f"{choice['memory_bytes'] / 1e6:,.1f} MB in memory; a token reads "
        f"{choice['read_bytes_per_token'] / 1e6:,.1f} MB. "
        f"KL divergence {choice['predicted_kl']:.4f} predicted, {choice['measured_kl']:.4f} measured, on "
        f"{choice['tokens']:,} tokens of {choice['texts']:,} texts kept apart."
    )
    groups = choice["groups"]
    forms = sorted({form for group in groups for form in group["damages"]})
    head = "".join(
        f"<th>{escape(name)}</th>" for name in ("part", "format", "MB", *(f"KL as {form}" for form in forms))
    )
    rows = []
    for group in groups:
        found = (group["damages"].get(form) for form in forms)
        values = (group["name"], group["format"], group["memory_bytes"] / 1e6, *found)
        rows.append(f"<tr>{''.join(f'<td>{cell(value)}</td>' for value in values)}</tr>")
    note = "<p>KL divergence in nats when this part alone is rounded; the sum of those chosen is what is predicted.</p>"
    return [f"<h2>Bits of every part</h2><p>{escape(facts)}</p>{note}<table><tr>{head}</tr>{''.join(rows)}</table>"]


def error_pictures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One picture for each part (qkv, output, ...), a bar for each layer; of experts the mean."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        layer, part = place_of(row["name"])
        error = row["relative_error"] if row["output_error"] is None else row["output_error"]
        found.setdefault(part, {}).setdefault(layer, []).append(error)
    pictures = []
    for part, layers in found.items():
        means = {layer: sum(errors) / len(errors) for layer, errors in layers.items()}
        bars = [(layer, logarithmic(error), 0.0, f"{layer}: {error:.2e}") for layer, error in means.items()]
        pictures.append(f"<h3>{escape(part)}</h3>{bar_chart(bars)}")
    return pictures


def expert_pictures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Calibration tokens of every expert, layer by layer; forced ones on top."""
    layers: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        layer, part = place_of(row["name"])
        if part == "experts_gate_up" and row["method"] == "gptq":
            layers.setdefault(layer, []).append(row)
    if not layers:
        return []
    pictures = ["<h2>Calibration tokens of each expert</h2><p>Blue: routed there. Red: forced, because few were.</p>"]
    for layer, experts in layers.items():
        most = max(row["tokens"] for row in experts)
        bars = [
            (
                str(index),
                (row["tokens"] - row["forced"]) / max(most, 1),
                row["forced"] / max(most, 1),
                f"expert {index}: {row['tokens']} tokens, {row['forced']} forced",
            )
            for index, row in enumerate(experts)
        ]
        pictures.append(f"<h3>{escape(layer)}</h3>{bar_chart(bars)}")
    return pictures


def place_of(name: str) -> tuple[str, str]:
    """Layer and part of a matrix, by its name: layers.3.experts_down.7 is ("layer 3", "experts_down")."""
    words = name.split(".")
    return (f"layer {words[1]}", words[2]) if words[0] == "layers" else (name, "embedding and head")


def logarithmic(error: float) -> float:
    """0 at 1e-6 and below, 1 at 1."""
    return min(1.0, max(0.0, 1 + log10(error) / 6)) if error > 0 else 0.0


def bar_chart(bars: Sequence[tuple[str, float, float, str]]) -> str:
    """Bars of (label, height, height on top, what a pointer shows), heights from 0 to 1."""
    width = MARGIN + len(bars) * (BAR + GAP)
    shapes = []
    for index, (_, low, high, hint) in enumerate(bars):
        x, base = index * (BAR + GAP), HEIGHT * (1 - low)
        body = f"<rect class=part x={x} y={base:.1f} width={BAR} height={HEIGHT * low:.1f} />"
        top = f"<rect class=forced x={x} y={base - HEIGHT * high:.1f} width={BAR} height={HEIGHT * high:.1f} />"
        shapes.append(f"<g><title>{escape(hint)}</title>{body}{top if high else ''}</g>")
    ends = f"{escape(bars[0][0])} … {escape(bars[-1][0])}"
    label = f"<text x=0 y={HEIGHT + 16} font-size=12>{ends}</text>"
    return f'<svg viewBox="0 0 {max(width, 160)} {HEIGHT + 22}" width={max(width, 160)}>{"".join(shapes)}{label}</svg>'


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """All records, a row each."""
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in COLUMNS)
    body = "".join(f"<tr>{''.join(f'<td>{cell(row[name])}</td>' for name in COLUMNS)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def cell(value: Any) -> str:
    """A value for people."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))
