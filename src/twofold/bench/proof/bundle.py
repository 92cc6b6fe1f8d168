"""The folder a proof is kept in: result.json, samples.jsonl, recorded prompts, report.html, logs, and their checksums.

Samples are written after every round, so that a proof that is cut short leaves what it has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from twofold.bench.proof.model import SCHEMA, Proof, Sample
from twofold.bench.proof.workload import Request
from twofold.errors import BenchError, SettingsError

RESULT, SAMPLES, REPORT, SUMS = "result.json", "samples.jsonl", "report.html", "SHA256SUMS"
PROMPTS = "prompts.jsonl"
MOST_BYTES = 256 * 2**20


class Bundle:
    """A new folder. Raises SettingsError when there is something in it already."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise SettingsError(f"{folder} is not empty; name a folder that does not exist with -o")
        except OSError as error:
            raise SettingsError(f"{folder} cannot be made: {error.strerror or error}") from error
        self.logs = folder / "logs"
        self.logs.mkdir()
        (folder / SAMPLES).touch()

    def keep_prompts(self, requests: Sequence[Request]) -> None:
        """Keep recorded traffic, as `--prompts` takes it, so that a replay asks the same; made-up one has its seed."""
        lines = [{**item.body, **({"expected": item.expected} if item.expected else {})} for item in requests]
        if lines:
            write(self.folder / PROMPTS, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in lines))

    def add(self, samples: Sequence[Sample]) -> None:
        """Keep the samples of a round."""
        with (self.folder / SAMPLES).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in samples)

    def finish(self, proof: Proof, report: str) -> None:
        """Write the result and the report, then the checksums of everything."""
        write(self.folder / RESULT, json.dumps(proof.to_json(), indent=2, ensure_ascii=False) + "\n")
        write(self.folder / REPORT, report)
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file() and path.name != SUMS)
        lines = [f"{digest(path)}  {path.relative_to(self.folder).as_posix()}\n" for path in paths]
        write(self.folder / SUMS, "".join(lines))


def write(path: Path, text: str) -> None:
    """A file, whole or not there."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_result(folder: Path) -> dict[str, Any]:
    """result.json of a bundle whose checksums hold. Raises BenchError for one that is damaged, changed or too new."""
    try:
        lines = (folder / SUMS).read_text("utf-8").splitlines()
        for line in lines:
            expected, _, name = line.partition("  ")
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()) or digest(path) != expected:
                raise BenchError(f"{path} is not what {SUMS} says; the bundle was changed or is damaged")
        if not any(line.endswith(f"  {RESULT}") for line in lines) or (folder / RESULT).stat().st_size > MOST_BYTES:
            raise BenchError(f"{folder} holds no proof: {RESULT} is not among its checksums")
        raw = json.loads((folder / RESULT).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(f"{folder} holds no proof that can be read: {error}") from error
    if not isinstance(raw, dict) or raw.get("kind") != "twofold-proof":
        raise BenchError(f"{folder / RESULT} is no proof of twofold")
    if raw.get("schema") != SCHEMA:
        raise BenchError(f"{folder / RESULT} has schema {raw.get('schema')!r}; {SCHEMA} was expected")
    return raw
