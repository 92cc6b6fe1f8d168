"""kv_cache.json: whether int8 keys and values were tested for the very model in this folder, and what came out.

    {"version": 1, "model": fingerprint, "verdicts": {"w4a8": {...}, ...}}, one verdict for each dtype of the weights

The fingerprint covers config.json, the names and sizes of the weight files and a sample of their bytes, so that a
verdict is never applied to another model, nor to one with the same config and other weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from twofold.errors import CheckpointError, SettingsError
from twofold.weights.fingerprint import fingerprint
from twofold.weights.packed_file import FILE_NAME as PACKED_NAME
from twofold.weights.strict_json import read_json
from twofold.weights.write import write_json

FILE_NAME = "kv_cache.json"
VERSION = 1
TEST_AGAIN = "Remove the file, or test again: twofold eval MODEL --gate-kv"


@dataclass(frozen=True, kw_only=True)
class KvVerdict:
    """What a test of int8 keys and values against bfloat16 ones gave.

    tokens: how many were judged, in stretches of `longest`; int8_kl, int8_kl_p99, bf16_kl: KL(float32 || these) in
    nats; int8_agreement, bf16_agreement: share of positions with the same best token; worst_excess: int8_kl - bf16_kl
    in the worst band of positions; text: SHA-256 of the token ids; date: ISO, UTC.
    """

    passed: bool
    tokens: int
    longest: int
    int8_kl: float
    int8_kl_p99: float
    int8_agreement: float
    bf16_kl: float
    bf16_agreement: float
    worst_excess: float
    text: str
    date: str

    def in_words(self) -> str:
        """One line for people."""
        outcome = "passed" if self.passed else "failed"
        return (
            f"int8 {outcome} its test on {self.date[:10]}: KL {self.int8_kl:.5f} (bf16 {self.bf16_kl:.5f}), same best "
            f"token {self.int8_agreement:.2%} (bf16 {self.bf16_agreement:.2%}), in contexts of {self.longest:,} tokens"
        )


def find_verdict(folder: Path, dtype: str) -> tuple[KvVerdict | None, str]:
    """The verdict for a folder's weights loaded as `dtype`, None when there is none; and what there is to say about it.

    Raises CheckpointError when the file is damaged.
    """
    if not (folder / FILE_NAME).exists():
        return None, "int8 was not tested for this model"
    fingerprint, verdicts = read_verdicts(folder)
    if fingerprint != fingerprint_of(folder):
        return None, f"{FILE_NAME} is of another model or of other weights and is ignored"
    if dtype not in verdicts:
        return None, f"int8 was tested with {', '.join(verdicts)} weights, not with {dtype}"
    return verdicts[dtype], verdicts[dtype].in_words()


def write_verdict(folder: Path, dtype: str, verdict: KvVerdict) -> None:
    """Add a verdict to a folder, replacing that of the same dtype and all verdicts about another model.

    Raises SettingsError when the folder cannot be written.
    """
    fingerprint = fingerprint_of(folder)
    verdicts: dict[str, KvVerdict] = {}
    if (folder / FILE_NAME).exists():
        found, known = read_verdicts(folder)
        verdicts = known if found == fingerprint else {}
    kept = {name: asdict(item) for name, item in (verdicts | {dtype: verdict}).items()}
    try:
        write_json(folder / FILE_NAME, {"version": VERSION, "model": fingerprint, "verdicts": kept})
    except OSError as error:
        raise SettingsError(
            f"{folder / FILE_NAME} cannot be written: {error.strerror}. The verdict belongs beside the weights; "
            "copy the model to a folder of yours and test it there."
        ) from error


def carry_verdict(source: Path, target: Path, dtype: str) -> None:
    """Give a folder that holds the same weights in another file the verdict of its source, if it has one."""
    verdict, _ = find_verdict(source, dtype)
    if verdict is not None:
        write_verdict(target, dtype, verdict)


def read_verdicts(folder: Path) -> tuple[str, dict[str, KvVerdict]]:
    """Fingerprint and verdicts of the file, every value of its type; raises CheckpointError."""
    raw = read_json(folder, FILE_NAME)
    path = folder / FILE_NAME
    if raw.get("version") != VERSION:
        raise CheckpointError(f"{path} has version {raw.get('version')!r}; {VERSION} was expected. {TEST_AGAIN}")
    fingerprint, verdicts = raw.get("model"), raw.get("verdicts")
    if not isinstance(fingerprint, str) or not isinstance(verdicts, dict):
        raise CheckpointError(f"{path} is damaged: a model and its verdicts were expected. {TEST_AGAIN}")
    return fingerprint, {dtype: checked(item, f"{path}, {dtype}") for dtype, item in verdicts.items()}


def checked(raw: object, where: str) -> KvVerdict:
    """One verdict; raises CheckpointError unless it has every field and no other."""
    kinds: Mapping[str, type] = {"bool": bool, "int": int, "float": float, "str": str}
    expected = {item.name: kinds[str(item.type)] for item in fields(KvVerdict)}
    if not isinstance(raw, dict) or raw.keys() != expected.keys():
        raise CheckpointError(f"{where}: the fields {', '.join(expected)} were expected. {TEST_AGAIN}")
    for name, kind in expected.items():
        if type(raw[name]) is not kind:
            raise CheckpointError(f"{where}: {name} is {raw[name]!r}; {kind.__name__} was expected. {TEST_AGAIN}")
    return KvVerdict(**raw)


def fingerprint_of(folder: Path) -> str:
    """SHA-256 over config.json, and over names, sizes and samples of the weight files."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob(PACKED_NAME)])
    return fingerprint(read_json(folder, "config.json"), files)
