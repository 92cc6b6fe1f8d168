"""What a known beginning of a prompt saves: the time to the first token, first, again, and after a restart.

python -m benchmarks.prefix                           2,000 tokens, both networks, five rounds, w4a8
python -m benchmarks.prefix --network toy-dense --rounds 1 --no-result
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.arguments import positive
from benchmarks.networks import NETWORKS
from benchmarks.peers.__main__ import names_of, say
from benchmarks.peers.engines import Place, prepare_checkpoint, prepare_twofold
from benchmarks.results import write_result
from benchmarks.serving.client import Body, Figures, ask
from benchmarks.serving.figures import spread
from benchmarks.serving.servers import started, twofold_command
from benchmarks.serving.words import prompt, with_tokenizer
from twofold.backends.cpu import machine

TURN_TOKENS = 32
ANSWER_TOKENS = 8
WANTED = 10.0
"""How many times as fast a known prefix of 2,000 tokens must be at least."""


def answer_to(port: int, tokens: list[int], **more: Any) -> Figures:
    """Ask for a short greedy answer."""
    body: Body = {
        "prompt": tokens,
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }
    return asyncio.run(ask(port, body)).read()


def measure_repeats(port: int, vocabulary: int, length: int, number: int) -> dict[str, Any]:
    """One prefix with one question, then with another one; and that one as if nothing were known."""
    seed = 1000 * number
    prefix = prompt(vocabulary, length, seed)
    first = answer_to(port, prefix + prompt(vocabulary, TURN_TOKENS, seed + 1))
    other = prefix + prompt(vocabulary, TURN_TOKENS, seed + 2)
    second = answer_to(port, other)
    unknown = answer_to(port, other, cache_salt=f"round {number}")
    return {
        "first_ms": round(1000 * first.first_s, 1),
        "second_ms": round(1000 * second.first_s, 1),
        "times_as_fast": round(first.first_s / second.first_s, 2),
        "same_answer": second.text == unknown.text,
    }


def measure_session(command: list[str], vocabulary: int, length: int, number: int, log: Path) -> dict[str, Any]:
    """A named conversation, a restart, and its next turn; set against the same prompt without the name's files."""
    seed = 1000 * number
    conversation = prompt(vocabulary, length, seed)
    turn = conversation + prompt(vocabulary, TURN_TOKENS, seed + 3)
    with tempfile.TemporaryDirectory() as folder:
        kept = [*command, "--session-dir", folder]
        with started(kept, log) as server:
            answer_to(server.port, prompt(vocabulary, length, seed + 5))  # what happens once happens now
            first = answer_to(server.port, conversation, session_id="s1")
            begun = time.monotonic()
            server.stop()
            stop_s = time.monotonic() - begun
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        with started(kept, log) as server:
            answer_to(server.port, prompt(vocabulary, length, seed + 6))
            restored = answer_to(server.port, turn, session_id="s1")
            unknown = answer_to(server.port, turn, cache_salt="another")
            server.stop()
    return {
        "first_ms": round(1000 * first.first_s, 1),
        "restored_ms": round(1000 * restored.first_s, 1),
        "unknown_ms": round(1000 * unknown.first_s, 1),
        "times_as_fast": round(unknown.first_s / restored.first_s, 2),
        "stop_s": round(stop_s, 2),
        "file_mib": round(size / 2**20, 1),
        "same_answer": restored.text == unknown.text,
    }


def compare(place: Place, length: int, rounds: int, threads: int) -> dict[str, Any]:
    """All figures of one network."""
    prepare_checkpoint(place)
    folder = with_tokenizer(prepare_twofold(place).weights)
    command, log = twofold_command(str(folder), "--threads", str(threads)), place.root / "prefix.log"
    vocabulary = NETWORKS[place.network]["vocab_size"]
    with started(command, log) as server:
        answer_to(server.port, prompt(vocabulary, length, 999_999))  # what happens once happens now
        repeats = [measure_repeats(server.port, vocabulary, length, number) for number in range(rounds)]
        server.stop()
    sessions = [measure_session(command, vocabulary, length, number, log) for number in range(rounds)]
    return {
        "network": place.network,
        "dtype": place.dtype,
        "prefix_tokens": length,
        "again": summary(repeats),
        "after_restart": summary(sessions),
    }


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Spread of every figure, and whether every answer was the one that is computed from nothing."""
    figures = [{name: value for name, value in item.items() if name != "same_answer"} for item in rounds]
    return {**spread(figures), "same_answers": all(item["same_answer"] for item in rounds)}


def lines(found: dict[str, Any]) -> list[str]:
    """The figures in words."""

    def middle(part: str, name: str) -> float:
        return float(found[part][name]["median"])

    again, after = found["again"], found["after_restart"]
    return [
        f"{found['network']}, {found['dtype']}: a prefix of {found['prefix_tokens']} tokens",
        f"  the first token comes after {middle('again', 'first_ms'):.0f} ms, and when the prefix is known after "
        f"{middle('again', 'second_ms'):.0f} ms: {middle('again', 'times_as_fast'):.1f} times as fast"
        f"{'' if again['same_answers'] else '; ANSWERS DIFFER'}",
        f"  next turn of a session after restart: {middle('after_restart', 'restored_ms'):.0f} ms instead of "
        f"{middle('after_restart', 'unknown_ms'):.0f} ms: {middle('after_restart', 'times_as_fast'):.1f} times as "
        f"fast; {middle('after_restart', 'file_mib'):.0f} MiB{'' if after['same_answers'] else '; ANSWERS DIFFER'}",
    ]


def is_reached(figures: list[dict[str, Any]]) -> bool:
    """Whether known prefixes are as fast as wanted, within the server and after a restart, with the same answers."""
    parts = [item[name] for item in figures for name in ("again", "after_restart")]
    return all(part["same_answers"] and part["times_as_fast"]["median"] >= WANTED for part in parts)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = list(NETWORKS)
    parser.add_argument("--network", type=lambda text: names_of(text, networks), default=["llama-1b", "scout-mini"])
    parser.add_argument("--prefix", type=positive, default=2000, help="tokens (default: 2000)")
    parser.add_argument("--rounds", type=positive, default=5, help="each with a prefix of its own (default: 5)")
    parser.add_argument("--threads", type=positive, default=machine.cpu().threads)
    parser.add_argument("--dtype", choices=["w4a8", "w8a8", "bf16"], default="w4a8")
    parser.add_argument("--build", type=Path, default=Path("build/peers"), help="where networks are kept")
    parser.add_argument("--no-result", action="store_true", help="keep no file in benchmarks/results")
    return parser.parse_args()


def main() -> None:
    """Measure, show, keep."""
    chosen = parse()
    figures = []
    for network in chosen.network:
        place = Place(network=network, dtype=chosen.dtype, root=chosen.build)
        figures.append(compare(place, chosen.prefix, chosen.rounds, chosen.threads))
        say("\n".join(lines(figures[-1])))
    print(json.dumps(figures))
    if not chosen.no_result:
        given = ["PATH" if item == str(chosen.build) else item for item in sys.argv[1:]]
        print(write_result("prefix", shlex.join(["python", "-m", "benchmarks.prefix", *given]), figures))
    sys.exit(0 if is_reached(figures) else 1)


if __name__ == "__main__":
    main()
