"""twofold serve beside llama.cpp's own HTTP server: the same network, prompts and lengths, in turns.

python -m benchmarks.serve_peers                         both networks, both servers, three rounds
python -m benchmarks.serve_peers --network toy-dense --rounds 1 --streams 1,4 --no-result    a minute, to see it work
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.arguments import positive
from benchmarks.networks import NETWORKS
from benchmarks.peers import install
from benchmarks.peers.__main__ import names_of, say
from benchmarks.peers.engines import Place, prepare_checkpoint, prepare_gguf, prepare_twofold
from benchmarks.peers.protocol import EngineFailed
from benchmarks.results import write_result
from benchmarks.serving.client import BadAnswer
from benchmarks.serving.figures import spread, times_as_good
from benchmarks.serving.loads import BUSY, Load, run_level, run_probes
from benchmarks.serving.servers import Server, started, twofold_command
from benchmarks.serving.table import show
from benchmarks.serving.words import with_tokenizer, with_vocabulary
from twofold.backends.cpu import machine
from twofold.bench.proof.overhead import client_overhead
from twofold.bench.quiet import LOUD, others_share

Levels = dict[str, dict[str, float]]
"""Figures by level: a number of streams, or PROBES."""
PROBES = f"one more while {BUSY} run"


def twofold_server(place: Place, load: Load, threads: int) -> list[str]:
    """As a user starts it, guessing included."""
    folder = with_tokenizer(prepare_twofold(place).weights)
    return twofold_command(str(folder), "--threads", str(threads), "--max-num-seqs", str(load.slots))


def llama_server(program: Path | None, place: Place, load: Load, threads: int) -> list[str]:
    """As it comes, with a slot for every stream and room for its tokens; prompts that never recur are not kept."""
    program = program or install.llama_server(place.root)
    path = with_vocabulary(prepare_gguf(place, install.llama_cpp(place.root).quantize))
    room = -(-(load.prompt_tokens + load.busy_tokens) // 256) * 256 * load.slots
    sizes = ("-t", str(threads), "-np", str(load.slots), "-c", str(room), "--cache-ram", "0")
    return [str(program.resolve()), "-m", str(path), *sizes, "--no-ui", "--offline"]


def run_once(command: list[str], load: Load, log: Path, number: int) -> dict[str, Any]:
    """One server in one round, started for it. Raises EngineFailed."""
    with started(command, log) as server:
        try:
            levels, costs = run_levels(server, load, number)
        except* (BadAnswer, OSError) as errors:
            raise EngineFailed(str(errors.exceptions[0])) from errors
        peak = server.status_bytes("VmHWM")
        server.stop()
    return {"levels": levels, "start_s": round(server.start_s, 2), "peak_memory_bytes": peak, **costs}


def run_levels(server: Server, load: Load, number: int) -> tuple[Levels, dict[str, float]]:
    """All levels, and the shares of the cores that client and others took. Raises BadAnswer, OSError."""
    seed = 1_000_000 * number
    asyncio.run(run_level(server.port, load, 1, seed + 990_000))  # what happens once happens now
    levels: Levels = {}
    before, work_s = server.clock(), time.process_time()
    for place, streams in enumerate(load.streams):
        levels[str(streams)] = asyncio.run(run_level(server.port, load, streams, seed + 10_000 * place))
    if load.probes:
        levels[PROBES] = asyncio.run(run_probes(server.port, load, seed + 980_000))
    after, cores = server.clock(), os.cpu_count() or 1
    client = (time.process_time() - work_s) / ((after.at - before.at) * cores)
    return levels, {"client_share": round(client, 4), "others_share": round(others_share(before, after, cores), 4)}


def run_rounds(commands: dict[str, list[str]], load: Load, rounds: int, root: Path) -> dict[str, dict[int, Any]]:
    """Every server once per round, each round beginning with another one. One that fails ends the comparison."""
    found: dict[str, dict[int, Any]] = {name: {} for name in commands}
    for number in range(rounds):
        names = list(commands)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            begun = time.monotonic()
            item = found[name][number] = run_once(commands[name], load, root / f"serve-{name}.log", number)
            loud = f", other programs took {item['others_share']:.0%}" if item["others_share"] > LOUD else ""
            say(f"  round {number + 1}, {name}: {time.monotonic() - begun:.0f} s{loud}")
    return found


def compare(place: Place, commands: dict[str, list[str]], load: Load, rounds: int) -> dict[str, Any]:
    """All figures of one network."""
    found = run_rounds(commands, load, rounds, place.root)
    levels = [*map(str, load.streams), *([PROBES] if load.probes else [])]

    def by_round(name: str, level: str) -> dict[int, dict[str, float]]:
        return {number: item["levels"][level] for number, item in found[name].items()}

    rows = []
    for name, items in found.items():
        row: dict[str, Any] = {"engine": name, "rounds": rounds}
        row |= spread([{key: item[key] for key in item if key != "levels"} for item in items.values()])
        row["levels"] = {level: spread(list(by_round(name, level).values())) for level in levels}
        if name != "twofold" and "twofold" in found:
            row["twofold_times_as_good"] = {
                level: times_as_good(by_round("twofold", level), by_round(name, level)) for level in levels
            }
        rows.append(row)
    return {"network": place.network, "dtype": place.dtype, "load": asdict(load), "engines": rows}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks, engines = list(NETWORKS), ["twofold", "llama.cpp"]
    parser.add_argument("--network", type=lambda text: names_of(text, networks), default=["llama-1b", "scout-mini"])
    parser.add_argument("--engines", type=lambda text: names_of(text, engines), default=engines)
    parser.add_argument("--streams", type=lambda text: tuple(map(positive, text.split(","))), default=(1, 4, 8, 16, 32))
    parser.add_argument("--prompt", type=positive, default=128, help="tokens of every prompt (default: 128)")
    parser.add_argument("--answer", type=positive, default=128, help="tokens of every answer (default: 128)")
    parser.add_argument("--requests", type=positive, default=2, help="of each stream, one after the other (default: 2)")
    parser.add_argument("--probes", type=int, default=8, help=f"requests that arrive while {BUSY} run (default: 8)")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--threads", type=positive, default=machine.cpu().threads, help="of every server")
    parser.add_argument("--dtype", choices=["w4a8", "w8a8", "bf16"], default="w4a8")
    parser.add_argument("--build", type=Path, default=Path("build/peers"), help="where networks and programs are kept")
    parser.add_argument("--llama-server", type=Path, help="a built llama-server (default: builds one in --build)")
    parser.add_argument("--no-result", action="store_true", help="keep no file in benchmarks/results")
    return parser.parse_args()


def commands_of(arguments: argparse.Namespace, place: Place, load: Load) -> dict[str, list[str]]:
    """Command line of each server, its weights prepared."""
    prepare_checkpoint(place)
    makers: dict[str, Callable[[Place, Load, int], list[str]]] = {
        "twofold": twofold_server,
        "llama.cpp": partial(llama_server, arguments.llama_server),
    }
    return {name: makers[name](place, load, arguments.threads) for name in arguments.engines}


def main() -> None:
    """Measure, show, keep."""
    arguments = parse()
    overhead = client_overhead(max(arguments.streams), arguments.build)
    figures: list[dict[str, Any]] = [{"client": overhead}]
    for network in arguments.network:
        place = Place(network=network, dtype=arguments.dtype, root=arguments.build)
        load = Load(
            streams=arguments.streams,
            prompt_tokens=arguments.prompt,
            answer_tokens=arguments.answer,
            requests=arguments.requests,
            probes=arguments.probes,
            vocabulary=NETWORKS[network]["vocab_size"],
        )
        say(f"{network} {arguments.dtype}: preparing")
        figures.append(compare(place, commands_of(arguments, place, load), load, arguments.rounds))
        show(figures[-1], overhead)
    print(json.dumps(figures))
    if not arguments.no_result:
        own = {str(arguments.build), str(arguments.llama_server)}  # where a build lies is no one else's business
        given = ["PATH" if item in own else item for item in sys.argv[1:]]
        command = shlex.join(["python", "-m", "benchmarks.serve_peers", *given])
        print(write_result("serve-peers", command, figures), file=sys.stderr)


if __name__ == "__main__":
    main()
