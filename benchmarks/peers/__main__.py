"""Command line: prepare every engine, run them in turns, show and keep the figures."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.arguments import positive
from benchmarks.networks import NETWORKS
from benchmarks.peers.engines import PREPARE, Place, Ready, prepare, prepare_checkpoint, runner
from benchmarks.peers.protocol import EngineFailed, Request, ask, without_folders
from benchmarks.peers.summary import FIGURES, Codes, Limits, Measured, Work, summarise
from benchmarks.peers.table import show
from benchmarks.peers.weight_error import weight_errors
from benchmarks.results import write_result
from twofold.backends.cpu import machine
from twofold.bench.quiet import LOUD, others_share, read_clock
from twofold.config import DTYPES
from twofold.loading import open_model

DESCRIPTION = "twofold beside other engines, on random networks of the same shape and bits, in turns."
EXAMPLES = """examples:
  python -m benchmarks.peers                                             both networks, twofold and llama.cpp
  python -m benchmarks.peers --network scout-mini --ik ~/ik_llama.cpp/build --engines twofold,llama.cpp,ik_llama.cpp
  python -m benchmarks.peers --network llama-1b --engines all --rounds 1 every engine there is
  python -m benchmarks.peers --network toy --rounds 1 --no-result        a minute, to see that everything works
  python -m benchmarks.peers --dtype bf16 --engines twofold,llama.cpp,transformers"""
DEFAULT_NETWORKS = ("llama-1b", "scout-mini")
DEFAULT_ENGINES = ("twofold", "llama.cpp")
CODES: dict[str, Codes] = {"w8a8": "int8", "w4a8": "int4"}


def say(text: str) -> None:
    """Progress, beside the figures."""
    print(text, file=sys.stderr, flush=True)


def measure_limits(threads: int) -> Limits:
    """What the machine can do, now."""
    done = subprocess.run([*runner("limits"), str(threads)], check=True, capture_output=True, text=True)
    return Limits(**json.loads(done.stdout))


def work_of(place: Place) -> Work:
    """What the network asks for."""
    model = open_model(place.checkpoint)
    counted = model.footprint(place.dtype)
    per_token = counted.read_parameters_per_token - counted.parameters.get("head", 0)
    if model.has_tied_head:
        per_token -= counted.parameters["embedding"]
    experts = model.architecture.expert_count
    return Work(ops_per_token=2.0 * per_token, experts=experts, active=counted.active_experts if experts else 0)


def prepare_all(engines: list[str], place: Place) -> tuple[dict[str, Ready], dict[str, str]]:
    """The engines that can run this network, and why the others cannot."""
    ready, reasons = {}, {}
    for name in engines:
        say(f"{place.network} {place.dtype}: preparing {name}")
        try:
            ready[name] = prepare(name, place)
        except EngineFailed as error:
            reasons[name] = str(error)
            say(f"  cannot run: {error}")
    return ready, reasons


def run_rounds(
    ready: dict[str, Ready], reasons: dict[str, str], rounds: int, threads: int
) -> tuple[dict[str, list[Measured]], list[Limits]]:
    """Every engine once per round, each round beginning with another one; a failing engine drops out."""
    found: dict[str, list[Measured]] = {name: [] for name in ready}
    limits = []
    for number in range(rounds):
        limits.append(measure_limits(threads))
        names = [name for name in ready if name not in reasons]
        first = number % max(1, len(names))
        for name in names[first:] + names[:first]:
            try:
                found[name].append(run_once(ready[name], number, threads))
            except EngineFailed as error:
                reasons[name] = str(error)
                say(f"  round {number + 1}, {name} failed: {error}")
                continue
            last = found[name][-1]
            loud = f", other programs took {last.others_share:.0%} of the cores" if last.others_share > LOUD else ""
            say(f"  round {number + 1}, {name}: {last.wall_s:.0f} s{loud}")
    return found, limits


def run_once(engine: Ready, number: int, threads: int) -> Measured:
    """One engine in one round; raises EngineFailed."""
    request = Request(
        weights=str(engine.weights),
        threads=threads,
        tasks=tuple(sorted({figure.task for figure in FIGURES})),
        seed=number,
        options=engine.options,
    )
    before = read_clock()
    report = ask(engine.command, request)
    after = read_clock()
    return Measured(
        round=number,
        report=report,
        wall_s=after.at - before.at,
        others_share=others_share(before, after, os.cpu_count() or 1),
    )


def compare(place: Place, engines: list[str], rounds: int, threads: int) -> dict[str, Any]:
    """All figures of one network."""
    prepare_checkpoint(place)
    ready, reasons = prepare_all(engines, place)
    measured, limits = run_rounds(ready, reasons, rounds, threads)
    work = work_of(place)
    rows = []
    for name in engines:
        row: dict[str, Any] = {"engine": name}
        if name in reasons:
            row["reason"] = without_folders(reasons[name])
        if measured.get(name):
            item = ready[name]
            codes = CODES.get(place.dtype) if item.form != "bf16" else None
            row |= {"form": item.form, "note": item.note, "file_bytes": item.file_bytes}
            row |= summarise(measured[name], measured.get("twofold", []), limits, work, item.sizes, codes)
            row["above_file_bytes"] = row["peak_memory_bytes"] - item.file_bytes
        rows.append(row)
    return {
        "network": place.network,
        "dtype": place.dtype,
        "threads": threads,
        "limits": [vars(item) for item in limits],
        "engines": rows,
    }


def names_of(text: str, known: list[str]) -> list[str]:
    """A comma-separated choice; "all" is every one."""
    chosen = known if text == "all" else [name for name in text.split(",") if name]
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'} was given; known are {', '.join(known)}")
    return list(chosen)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    networks, engines = list(NETWORKS), list(PREPARE)
    parser.add_argument(
        "--network",
        type=lambda text: names_of(text, networks),
        default=list(DEFAULT_NETWORKS),
        metavar="NAMES",
        help=f"{', '.join(networks)}, several with commas (default: {','.join(DEFAULT_NETWORKS)})",
    )
    parser.add_argument(
        "--engines",
        type=lambda text: names_of(text, engines),
        default=list(DEFAULT_ENGINES),
        metavar="NAMES",
        help=f"{', '.join(engines)}, several with commas, or all (default: {','.join(DEFAULT_ENGINES)})",
    )
    parser.add_argument("--dtype", choices=[name for name in DTYPES if name != "f32"], default="w4a8")
    parser.add_argument("--rounds", type=positive, default=3, help="every engine runs once per round (default: 3)")
    parser.add_argument("--threads", type=positive, default=machine.cpu().threads, help="of every engine")
    parser.add_argument("--ik", type=Path, help="build folder, or llama-batched-bench, of ik_llama.cpp or its kin")
    parser.add_argument("--root", type=Path, default=Path("build/peers"), help="where everything is kept")
    parser.add_argument("--no-result", action="store_true", help="keep no file in benchmarks/results")
    return parser.parse_args()


def main() -> None:
    """Measure, show, keep."""
    arguments = parse()
    engines = arguments.engines
    if arguments.ik and "ik_llama.cpp" not in engines:
        engines = [*engines, "ik_llama.cpp"]
    arguments.root.mkdir(parents=True, exist_ok=True)
    figures: list[dict[str, Any]] = []
    for network in arguments.network:
        place = Place(network=network, dtype=arguments.dtype, root=arguments.root, ik=arguments.ik)
        figures.append(compare(place, engines, arguments.rounds, arguments.threads))
        show(figures[-1])
    errors = weight_errors(arguments.dtype)
    show({"weight_errors": errors})
    figures.append({"weight_errors": errors})
    print(json.dumps(figures))
    if not arguments.no_result:
        own = {str(arguments.ik)}  # where a build lies is no one else's business
        given = ["PATH" if item in own else item for item in sys.argv[1:]]
        command = shlex.join(["python", "-m", "benchmarks.peers", *given])
        print(write_result("peers", command, figures), file=sys.stderr)


if __name__ == "__main__":
    main()
