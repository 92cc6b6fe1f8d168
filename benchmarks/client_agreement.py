"""Our client and a client of others on one server at the same time: do both say the same of it?

python -m benchmarks.client_agreement --guidellm ENV/bin/guidellm                        five minutes, the demo model
python -m benchmarks.client_agreement --guidellm ENV/bin/guidellm --requests 60 --no-result

Both have the same number of streams, the same kind of prompts and the same lengths of answers; what one of them meets,
the other one meets in the same minute. guidellm's figures are those of its own report, request by request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import positive
from benchmarks.peers.__main__ import say
from benchmarks.results import write_result
from benchmarks.serving.servers import started, twofold_command
from twofold import demo
from twofold.bench.client import Answer, BadAnswer, Body, Endpoint, ask
from twofold.bench.proof.measure import figures_of
from twofold.bench.proof.model import METRICS, Sample
from twofold.bench.proof.workload import CHAT, Limits, fact
from twofold.errors import BenchError

ALLOWED = 0.03
"""Difference from which the two clients do not agree."""
FIGURES = ("first_token_ms", "between_tokens_ms", "tokens_per_s")
RESAMPLES = 1000
SERVER = ("--dtype", "bf16", "--threads", "1")
"""Slow enough that what a client costs is little beside what it measures, and a core for the clients."""
LIMITS = Limits(first_s=10.0, between_s=1.0)
"""Of the goodput, which guidellm has no figure for."""
SHARED = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
"""What guidellm sends with every request, so that the server does the same for both."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """requests: guidellm's; streams: of each client; facts: sentences in a prompt; answer_tokens: of
    an answer, half of it to half more."""

    requests: int
    streams: int
    facts: int
    answer_tokens: int


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One answer by its client's own account. begun_s and ended_s: time.time() seconds; figures as in METRICS."""

    begun_s: float
    ended_s: float
    first_token_ms: float
    between_tokens_ms: float
    tokens: int


def rows(load: Load, seed: int) -> Iterator[dict[str, Any]]:
    """Prompts without an end and lengths of their answers, all different, so that streams do not march in step."""
    source = random.Random(seed)
    while True:
        prompt = " ".join(fact(source)[0] for _ in range(load.facts))
        yield {
            "prompt": prompt,
            "output_tokens_count": source.randint(load.answer_tokens // 2, 3 * load.answer_tokens // 2),
        }


def body_of(row: dict[str, Any]) -> Body:
    """A row as the request that guidellm makes of it."""
    content = [{"type": "text", "text": row["prompt"]}]
    lengths = {"max_completion_tokens": row["output_tokens_count"], "ignore_eos": True}
    return {"model": "demo", "messages": [{"role": "user", "content": content}], **lengths, **SHARED}


async def ask_until(endpoint: Endpoint, load: Load, seed: int, other: asyncio.subprocess.Process) -> list[Answer]:
    """Our client, from now until the other one has ended. Raises BadAnswer."""
    bodies, found = rows(load, seed), []

    async def stream() -> None:
        while other.returncode is None:
            found.append(await ask(endpoint, CHAT, body_of(next(bodies))))

    async with asyncio.TaskGroup() as group:
        for _ in range(load.streams):
            group.create_task(stream())
        await other.wait()
    return found


def guidellm_command(program: Path, url: str, load: Load, folder: Path) -> list[str]:
    """guidellm with rows of its own and so many streams."""
    path = folder / "rows.jsonl"
    source = rows(load, 2)
    path.write_text("".join(json.dumps(next(source)) + "\n" for _ in range(load.requests)))
    return [
        str(program), "run",
        "--backend", f"kind=openai_http,target={url},model=demo",
        "--profile", f"kind=concurrent,streams={load.streams}",
        "--constraint", f"kind=max_requests,count={load.requests}",
        "--data", f"kind=json_file,path={path}",
        "--tokenizer", f"kind=huggingface_auto,model={demo.model_folder()}",
        "--output", f"kind=json,path={folder / 'report.json'}",
        "--disable-console",
    ]  # fmt: skip


async def both(program: Path, url: str, load: Load, folder: Path) -> list[Answer]:
    """Both clients at once. Raises BenchError when one of them gets nowhere."""
    command = guidellm_command(program, url, load, folder)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "GUIDELLM__MAX_WORKER_PROCESSES": "1"}
    with (folder / "guidellm.log").open("wb") as log:
        other = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=environment
        )
        answers = await ask_until(Endpoint(url), load, 1, other)
    if other.returncode:
        raise BenchError(f"guidellm ended with {other.returncode}: {(folder / 'guidellm.log').read_text()[-600:]}")
    return answers


def ours(answers: Sequence[Answer], epoch_s: float) -> list[Seen]:
    """What prove's measuring core says of each answer. epoch_s: time.time() when time.perf_counter() was 0."""
    found = []
    for number, answer in enumerate(answers):
        read = answer.read()
        kept = Sample(
            round=0, role="candidate", request=number, first_s=read.first_s, gaps_s=read.gaps_s,
            total_s=read.total_s, answer_tokens=read.answer_tokens,
        )  # fmt: skip
        figures = figures_of([kept], read.total_s, LIMITS)
        found.append(
            Seen(
                begun_s=epoch_s + answer.sent_s,
                ended_s=epoch_s + answer.sent_s + read.total_s,
                first_token_ms=figures["first_token_ms"],
                between_tokens_ms=figures["between_tokens_ms"],
                tokens=read.answer_tokens,
            )
        )
    return found


def theirs(report: Body) -> list[Seen]:
    """What guidellm says of each answer. Raises BenchError when one failed."""
    requests = report["benchmarks"][0]["requests"]
    if requests["errored"] or requests["incomplete"]:
        raise BenchError(f"{len(requests['errored'])} requests of guidellm failed: {requests['errored'][:1]!r:.600}")
    return [
        Seen(
            begun_s=item["request_start_time"],
            ended_s=item["request_end_time"],
            first_token_ms=item["time_to_first_token_ms"],
            between_tokens_ms=item["inter_token_latency_ms"],
            tokens=item["output_tokens"],
        )
        for item in requests["successful"]
    ]


def compare(own: Sequence[Seen], other: Sequence[Seen]) -> dict[str, Any]:
    """Both clients' figures of the answers that ended while both were at work.

    That is from guidellm's first end to its last beginning: before and after, fewer streams run.
    """
    begun_s, until_s = min(item.ended_s for item in other), max(item.begun_s for item in other)
    parts = [[item for item in part if begun_s < item.ended_s <= until_s] for part in (own, other)]
    if not all(parts):
        raise BenchError("no answers ended while both clients were at work; ask for more --requests")
    figures = [summary(part, until_s - begun_s) for part in parts]
    return {
        "seconds": round(until_s - begun_s, 2),
        "twofold": {"answers": len(parts[0]), **figures[0]},
        "guidellm": {"answers": len(parts[1]), **figures[1]},
        "difference": {name: round(figures[0][name] / figures[1][name] - 1, 4) for name in FIGURES},
        "noise": {name: noise(*([getattr(item, name) for item in part] for part in parts)) for name in FIGURES[:2]},
    }


def summary(seen: Sequence[Seen], seconds: float) -> dict[str, float]:
    """Medians over the answers, and tokens of all of them per second."""
    medians = {name: float(np.median([getattr(item, name) for item in seen])) for name in FIGURES[:2]}
    rate = sum(item.tokens for item in seen) / seconds
    return {name: round(value, 3) for name, value in {**medians, "tokens_per_s": rate}.items()}


def noise(own: Sequence[float], other: Sequence[float]) -> float:
    """Half the width of the 95 % interval that two such samples of one distribution have for their medians' ratio."""
    source = np.random.default_rng(0)
    drawn = [np.median(source.choice(np.asarray(part), (RESAMPLES, len(part))), axis=1) for part in (own, other)]
    low, high = np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
    return round(float(high - low) / 2, 4)


def measure(program: Path, load: Load, options: Sequence[str]) -> dict[str, Any]:
    """A server, both clients on it, and what they say. Raises BenchError."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with started(twofold_command("demo", *options), folder / "server.log") as server:
            epoch_s = time.time() - time.perf_counter()
            try:
                answers = asyncio.run(both(program, f"http://127.0.0.1:{server.port}", load, folder))
            except* BadAnswer as errors:
                raise BenchError(str(errors.exceptions[0])) from errors
        report = json.loads((folder / "report.json").read_text())
    return {
        "load": asdict(load),
        "server": ["twofold", "serve", "demo", *options],
        "guidellm_version": report["metadata"]["guidellm_version"],
        **compare(ours(answers, epoch_s), theirs(report)),
    }


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The command line; what it does not know is for twofold serve, in place of SERVER."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--guidellm", type=Path, required=True, help="the program guidellm, in an environment of its own"
    )
    parser.add_argument("--requests", type=positive, default=600, help="guidellm's; ours are as many (default: 600)")
    parser.add_argument("--streams", type=positive, default=2, help="of each client (default: 2)")
    parser.add_argument("--facts", type=positive, default=72, help="sentences in a prompt (default: 72)")
    parser.add_argument("--answer", type=positive, default=128, help="tokens of an answer, half of it to half more")
    parser.add_argument("--no-result", action="store_true", help="keep no file in benchmarks/results")
    return parser.parse_known_args()


def main() -> None:
    """Measure, show, keep; 1 where the clients do not agree."""
    chosen, options = parse()
    load = Load(requests=chosen.requests, streams=chosen.streams, facts=chosen.facts, answer_tokens=chosen.answer)
    found = measure(chosen.guidellm.resolve(), load, options or SERVER)
    for name in FIGURES:
        own, other = found["twofold"][name], found["guidellm"][name]
        around = f" (noise {found['noise'][name]:.1%})" if name in found["noise"] else ""
        say(f"{METRICS[name].title:26} {own:10.2f} {other:10.2f} {found['difference'][name]:+.1%}{around}")
    print(json.dumps(found))
    if not chosen.no_result:
        given = ["PATH" if item == str(chosen.guidellm) else item for item in sys.argv[1:]]
        command = shlex.join(["python", "-m", "benchmarks.client_agreement", *given])
        print(write_result("client-agreement", command, [found]), file=sys.stderr)
    sys.exit(any(abs(value) > ALLOWED for value in found["difference"].values()))


if __name__ == "__main__":
    main()
