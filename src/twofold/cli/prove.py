"""twofold prove: is it twice as fast for me, at what quality, and what does it cost?"""

from __future__ import annotations

import re
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twofold.cli.bench import PRESETS
from twofold.cli.options import with_options
from twofold.cli.serving_options import check_installed
from twofold.config import DTYPES
from twofold.errors import SettingsError, TwofoldError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twofold.bench.proof.contenders import Spec
    from twofold.bench.proof.model import Proof
    from twofold.bench.proof.prove import Plan
    from twofold.bench.proof.workload import Limits, Workload

METRIC_NAMES = ("tokens_per_s", "requests_per_s", "goodput", "first_token_ms", "between_tokens_ms")
KEYS = ("key", "baseline-key")
NOT_PROVEN = 3
"""Exit status of a proof that does not show what it was to show."""
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

CONTENDERS = (
    click.option("--dtype", type=click.Choice(DTYPES), help="Weights of MODEL. [default: w4a8, or as packed]"),
    click.option(
        "--baseline", "baselines", multiple=True, default=("bf16",), show_default=True,
        help="What MODEL is compared with: bf16 (or another dtype of the same model), transformers (the same "
        "checkpoint), a folder or hub id of another model, or the address of a server that speaks OpenAI's API. "
        "Several: one proof after the other, each in a folder of its own.",
    ),
    click.option("--baseline-dtype", type=click.Choice(DTYPES), help="Weights of a baseline that is another model."),
    click.option("--name", default="", help="Model's name at MODEL's address. [default: the first it lists]"),
    click.option("--baseline-name", default="", help="Model's name at the baseline's address."),
    click.option("--key", default="", envvar="TWOFOLD_PROVE_KEY", help="API key of MODEL's address."),
    click.option(
        "--baseline-key", default="", envvar="TWOFOLD_PROVE_BASELINE_KEY", help="API key of the baseline's address."
    ),
    click.option("--threads", type=int, help="Threads of both, where they are started here. [default: one per core]"),
)  # fmt: skip
WORKLOAD = (
    click.option(
        "--preset", type=click.Choice(PRESETS), default="chat", show_default=True, help="Kind of made-up traffic."
    ),
    click.option("--prompts", type=FILE, help="Recorded traffic instead: JSON lines with messages or prompt."),
    click.option("--requests", type=click.IntRange(1, 10_000), help="Requests of a round. [default: the preset's]"),
    click.option("--streams", type=click.IntRange(1, 1024), help="Requests at once. [default: the preset's]"),
    click.option("--rounds", type=click.IntRange(1, 100), default=7, show_default=True, help="Rounds that count."),
    click.option("--seed", type=int, default=1, show_default=True, help="Of the traffic and of the intervals."),
    click.option(
        "--latency-limit", metavar="FIRST,BETWEEN", help="Seconds a user waits at most, as 1,0.1; for the goodput."
    ),
)
DEMANDS = (
    click.option("--metric", type=click.Choice(METRIC_NAMES), default="tokens_per_s", show_default=True,
                 help="Figure whose ratio is judged."),
    click.option("--target", type=float, default=2.0, show_default=True, help="What its lower bound must reach."),
    click.option("--max-kl", type=float, default=0.05, show_default=True, help="Most KL divergence, nats."),
    click.option("--min-agreement", type=float, default=0.9, show_default=True,
                 help="Least share of positions with the same best token."),
)  # fmt: skip
MONEY = (
    click.option("--price-per-hour", type=float, help="What the machine costs; without a price no cost is told."),
    click.option("--currency", default="USD", show_default=True, help="Currency of --price-per-hour."),
    click.option(
        "--prices",
        type=FILE,
        help="A price book (TOML); its hosted prices are compared with. [default: the one that ships]",
    ),
    click.option("--price-class", help="The machine's name in the price book."),
    click.option("--monthly-tokens", type=float, help="Output tokens of yours in a month, for the saving."),
)


@click.command(
    epilog="Examples:  twofold prove demo  |  twofold prove meta-llama/Llama-3.2-1B-Instruct --baseline transformers  "
    "|  twofold prove ./scout --baseline http://127.0.0.1:8080 --prompts traffic.jsonl --price-per-hour 0.35  "
    "|  twofold prove --replay proof-2026-11-26"
)
@click.argument("model", required=False)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder of the bundle.")
@click.option(
    "--replay", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Repeat a bundle's proof."
)
@with_options(*CONTENDERS, *WORKLOAD, *DEMANDS, *MONEY)
def command(model: str | None, output: Path | None, replay: Path | None, **options: Any) -> None:
    """Prove how much faster MODEL is served than a baseline, at what quality and cost, and keep the evidence."""
    if (model is None) == (replay is None):
        raise SettingsError("name a model to prove, or a bundle to repeat with --replay, one of the two")
    output = output or Path(f"proof-{datetime.now(UTC):%Y-%m-%d-%H%M%S}")
    if replay is not None:
        repeat(replay, output)
        return
    assert model is not None
    plans = read_plans(model, options, without(sys.argv[1:], *KEYS))
    first, *others = plans.values()
    proven = run_all(plans, output) if others else is_proven(run(first, output))
    if not proven:
        sys.exit(NOT_PROVEN)


def run_all(plans: Mapping[str, Plan], output: Path) -> bool:
    """One proof after the other, and the verdicts beside each other at the end; whether all are proven.

    One that breaks off does not keep the others from being run; then the exit status is 1.
    """
    said, all_proven, broken = [], True, False
    for baseline, plan in plans.items():
        try:
            proof = run(plan, output / folder_name(baseline))
        except TwofoldError as error:
            said.append(f"{baseline}: not measured: {error}")
            broken = True
        else:
            assert proof.verdict
            said.append(f"{baseline}: {proof.verdict.headline}")
            all_proven &= proof.verdict.proven
    click.echo("\n".join(said))
    if broken:
        sys.exit(1)
    return all_proven


def is_proven(proof: Proof) -> bool:
    """What the verdict says."""
    return proof.verdict is not None and proof.verdict.proven


def folder_name(baseline: str) -> str:
    """A baseline as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", baseline.partition("://")[2] or baseline).strip("-.") or "baseline"


def run(plan: Plan, output: Path) -> Proof:
    """Prove it, say how it went, and where the bundle is."""
    from twofold.bench.proof.bundle import REPORT, Bundle
    from twofold.bench.proof.prove import prove
    from twofold.server.energy import Energy

    bundle = Bundle(output)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: else the servers would outlive us
    try:
        proof = prove(plan, bundle, Energy(), lambda text: click.echo(text, err=True))
    except KeyboardInterrupt:
        raise click.ClickException(f"stopped; what was measured is kept in {bundle.folder}, marked partial") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    show(proof)
    click.echo(f"report: {bundle.folder / REPORT}")
    return proof


def show(proof: Proof) -> None:
    """The verdict and the main figures."""
    from twofold.bench.proof.model import METRICS

    assert proof.verdict
    for name, ratio in proof.ratios.items():
        metric, figures = METRICS[name], [proof.figures[role].get(name) for role in ("baseline", "candidate")]
        old, new = (f"{item.median:,.1f}" if item else "not measured" for item in figures)
        bounds = f" [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio.low < ratio.high else " (measured once)"
        click.echo(f"{metric.title + ', ' + metric.unit:42} {old:>12} -> {new:>12}   {ratio.median:.2f}x{bounds}")
    quality = proof.quality
    if quality and quality.kl is not None:
        click.echo(f"KL {quality.kl:.4f} nats, same best token {quality.agreement:.1%} of {quality.scored_tokens:,}")
    if quality and quality.same is not None:
        click.echo(f"same answers {quality.same:.0%} of {quality.compared}, words in common {quality.overlap:.0%}")
    if quality and quality.expected_candidate is not None and quality.expected_baseline is not None:
        click.echo(f"right answers {quality.expected_baseline:.1%} -> {quality.expected_candidate:.1%}")
    if proof.cost:
        before, after = (proof.cost.per_million_output[role] for role in ("baseline", "candidate"))
        click.echo(f"{f'A million output tokens, {proof.cost.currency}':42} {before:>12.4f} -> {after:>12.4f}")
    for text in proof.problems:
        click.echo(f"note: {text}")
    click.echo(proof.verdict.headline)


def read_plans(model: str, options: dict[str, Any], arguments: list[str]) -> dict[str, Plan]:
    """A plan for each baseline, with the command that makes it alone. Raises SettingsError before anything starts."""
    found: dict[str, Plan] = {}
    baselines = options["baselines"]
    for text in baselines:
        if folder_name(text) in map(folder_name, found):
            raise SettingsError(f"--baseline names {text} twice; each is compared with once")
        alone = [*without(arguments, "baseline"), "--baseline", text] if len(baselines) > 1 else arguments
        found[text] = read_plan(model, text, options, alone)
    return found


def read_plan(model: str, baseline: str, options: dict[str, Any], arguments: list[str]) -> Plan:
    """What the command line asks for. Raises SettingsError."""
    from twofold.bench.proof.prove import Plan
    from twofold.bench.proof.verdict import Demands

    specs = read_specs(model, baseline, options)
    price, hosted = read_price(options)
    return Plan(
        specs={"baseline": specs[0], "candidate": specs[1]},
        workload=read_workload(options),
        demands=Demands(
            metric=options["metric"], target=options["target"], most_kl=options["max_kl"],
            least_agreement=options["min_agreement"],
        ),
        rounds=options["rounds"],
        seed=options["seed"],
        command=("twofold", *arguments),
        price=price,
        hosted=hosted,
        monthly_tokens=options["monthly_tokens"],
    )  # fmt: skip


def without(arguments: list[str], *names: str) -> list[str]:
    """A command line without these options (of one value each) and their values; - and _ are the same in a name."""
    kept, is_value = [], False
    for item in arguments:
        name, has_value, _ = item.replace("_", "-").partition("=")
        is_option = not is_value and name.startswith("--") and name[2:] in names
        if not is_value and not is_option:
            kept.append(item)
        is_value = is_option and not has_value
    return kept


def read_specs(model: str, baseline: str, options: dict[str, Any]) -> tuple[Spec, Spec]:
    """Baseline and candidate."""
    from twofold.bench.proof.contenders import check_files, is_url, read_baseline, read_candidate
    from twofold.loading import open_model

    dtype = options["dtype"]
    if dtype is None and not is_url(model):
        dtype = open_model(model).own_dtype or "w4a8"
    candidate = read_candidate(model, dtype, options["threads"], options["name"], options["key"])
    compared = read_baseline(
        baseline, candidate, options["baseline_dtype"], options["baseline_name"], options["baseline_key"]
    )
    if "twofold" in (candidate.engine, compared.engine):
        check_installed()
    check_files(candidate)
    check_files(compared)
    return compared, candidate


def read_workload(options: dict[str, Any]) -> Workload:
    """Made-up or recorded traffic."""
    from twofold.bench.proof.workload import preset_workload, recorded_workload

    limits = read_limits(options["latency_limit"])
    if options["prompts"]:
        return recorded_workload(options["prompts"], options["requests"], options["streams"], limits)
    return preset_workload(options["preset"], options["requests"], options["streams"], limits)


def read_limits(text: str | None) -> Limits | None:
    """--latency-limit. Raises SettingsError."""
    from twofold.bench.proof.workload import Limits

    if text is None:
        return None
    found = re.fullmatch(r"([0-9.]+),([0-9.]+)", text.replace(" ", ""))
    try:
        first, between = (float(item) for item in found.groups()) if found else (0.0, 0.0)
    except ValueError:
        first = between = 0.0
    if not first > 0 or not between > 0:
        raise SettingsError(f"--latency-limit is {text!r}; two numbers of seconds above 0 were expected, as 1,0.1")
    return Limits(first_s=first, between_s=between)


def read_price(options: dict[str, Any]) -> tuple[tuple[float, str, str] | None, dict[str, Any]]:
    """Price per hour, currency and source, and hosted prices; raises SettingsError for half a price."""
    from twofold.bench.prices import own_book, read_book

    per_hour, name = options["price_per_hour"], options["price_class"]
    book = read_book(options["prices"]) if options["prices"] else own_book() if name else None
    if per_hour is not None and name:
        raise SettingsError("--price-per-hour and --price-class are two prices of one machine; give one of them")
    if per_hour is not None:
        if not 0 < per_hour < float("inf"):
            raise SettingsError(f"--price-per-hour is {per_hour}; a number above 0 was expected")
        currency = book.currency if book else options["currency"]
        return (per_hour, currency, "as given"), dict(book.hosted) if book else {}
    if book and name:
        entry = book.machine(name)
        return (entry.per_hour, book.currency, f"{name}: {entry.source} ({entry.noted})"), dict(book.hosted)
    if book or options["monthly_tokens"]:
        raise SettingsError("no price of this machine: add --price-per-hour, or --prices with --price-class")
    return None, {}


def repeat(folder: Path, output: Path) -> None:
    """Run a bundle's own command again and compare the ratios. Raises BenchError for what is no bundle."""
    from twofold.bench.proof.bundle import PROMPTS, read_result
    from twofold.bench.proof.replay import compare

    before = read_result(folder)
    arguments = [str(item) for item in before["command"]][1:]
    kept = folder / PROMPTS
    given = [*without(arguments[1:], "prompts"), "--prompts", str(kept)] if kept.exists() else arguments[1:]
    with command.make_context("prove", given) as context:
        options = dict(context.params)
    model = options.pop("model")
    options.pop("output")
    options.pop("replay")
    (plan,) = read_plans(model, options, arguments).values()
    proof = run(plan, output)
    for line in compare(before, proof):
        click.echo(line)
