"""twofold demo: the shipped model at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from twofold.config import DTYPES

if TYPE_CHECKING:
    from twofold.bench.quality import Quality

PASSAGE = (
    "The mayor of Quillmere is Torvane. The bridge of Quillmere was built in 1483. Torvane lives in Hollowick. "
    "The architect of the bridge of Quillmere was Sadra Venn. Quillmere has 7215 inhabitants. "
    "Sadra Venn has a dog called bromith. The postal code of Hollowick is TR-619."
)
QUESTION = "Who designed the bridge of Quillmere?"


@click.command(epilog="Examples:  twofold demo  |  twofold demo --dtype w4a8  |  twofold demo --evaluate")
@click.option("--dtype", type=click.Choice(DTYPES), default="bf16", show_default=True, help="Bits of the weights.")
@click.option("--evaluate", is_flag=True, help="Print the model's quality figures at bf16, w8a8 and w4a8 instead.")
@click.option("--questions", default=1000, show_default=True, help="How many held-out questions --evaluate asks.")
@click.option("--json", "as_json", is_flag=True, help="With --evaluate: one JSON line per dtype, no table.")
@click.option("--threads", type=int, help="Threads of the native kernels. [default: one per physical core]")
def command(dtype: str, evaluate: bool, questions: int, as_json: bool, threads: int | None) -> None:
    """Answer a question about a short text with the Llama 4 network that ships with twofold, and say how fast."""
    if evaluate:
        show_evaluation(questions, as_json, threads)
        return
    from twofold.api import Completion
    from twofold.cli.session import figures, load_with_progress, sampling_params, show

    llm = load_with_progress("demo", dtype=dtype, threads=threads)
    click.echo(f"{PASSAGE}\n\n{QUESTION}\n")
    completion = Completion(prompt_tokens=0)
    messages = [{"role": "user", "content": f"{PASSAGE}\n\n{QUESTION}"}]
    show(llm.chat_stream(messages, sampling_params(temperature=0.0), completion=completion))
    click.echo()
    click.echo(figures(llm, completion))


def show_evaluation(questions: int, as_json: bool, threads: int | None) -> None:
    """Measure and print, as a table or as JSON lines."""
    from rich.console import Console

    from twofold.bench.demo import measure_demo

    with Console(stderr=True).status("measuring") as status:
        found = measure_demo(
            ("bf16", "w8a8", "w4a8"),
            questions,
            threads,
            lambda dtype, done: status.update(f"{dtype}: {done} of {questions} questions"),
        )
    if as_json:
        for item in found:
            click.echo(item.to_json())
    else:
        Console().print(table_of(found))


def table_of(found: list[Quality]) -> object:
    """Figures as a table, one column per dtype."""
    from rich.table import Table

    table = Table(title="Demo model on held-out data", title_justify="left")
    table.add_column("")
    for item in found:
        table.add_column(item.dtype, justify="right")
    table.add_row("loss, nats per token", *(f"{item.loss:.4f}" for item in found))
    table.add_row("exact answers", *(f"{item.exact:.1%}" for item in found))
    for category in found[0].exact_by_category or {}:
        table.add_row(f"  {category}", *(f"{(item.exact_by_category or {})[category]:.1%}" for item in found))
    table.add_row("KL against bf16, mean", *(f"{item.kl_mean:.5f}" for item in found))
    table.add_row("KL against bf16, 99 %", *(f"{item.kl_p99:.5f}" for item in found))
    table.add_row("same best token as bf16", *(f"{item.agreement:.2%}" for item in found))
    table.add_row("least expert load (1 is fair)", *(f"{item.least_load:.2f}" for item in found))
    table.add_row("most expert load", *(f"{item.most_load:.2f}" for item in found))
    return table
