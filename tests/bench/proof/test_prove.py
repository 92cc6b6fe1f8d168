"""Proofs from end to end: real models, scripted servers, what is damaged or slowed, and what breaks on the way."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench.proof.servers import Script, scripted
from twofold import demo
from twofold.bench.proof.bundle import Bundle, read_result
from twofold.bench.proof.contenders import Spec, read_baseline, read_candidate
from twofold.bench.proof.model import Proof
from twofold.bench.proof.prove import Plan, prove
from twofold.bench.proof.verdict import Demands
from twofold.bench.proof.workload import preset_workload
from twofold.errors import BenchError, SettingsError
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.write import write_safetensors

LENIENT = Demands(target=0.001)


def plan(candidate: Spec, baseline: str, **changes: Any) -> Plan:
    made = Plan(
        specs={"baseline": read_baseline(baseline, candidate, None, "", ""), "candidate": candidate},
        workload=preset_workload("chat", 8, 4, None),
        demands=LENIENT,
        rounds=2,
        seed=3,
        command=("twofold", "prove"),
    )
    return replace(made, **changes)


def address(url: str) -> Spec:
    return read_candidate(url, None, None, "", "")


def model(path: str, dtype: str = "w8a8") -> Spec:
    return read_candidate(path, dtype, 1, "", "")


def run(chosen: Plan, folder: Path) -> Proof:
    return prove(chosen, Bundle(folder), None, lambda text: None)


def test_a_model_beside_its_own_bf16_self(tmp_path: Path) -> None:
    proof = run(plan(model("demo"), "bf16"), tmp_path / "bundle")
    assert proof.status == "complete"
    quality = proof.quality
    assert quality is not None
    assert quality.kind == "scored"
    assert quality.kl is not None
    assert 0 < quality.kl < 0.02
    assert quality.agreement is not None
    assert quality.agreement > 0.95
    assert quality.expected_candidate is not None
    for name in ("tokens_per_s", "first_token_ms", "between_tokens_ms", "cpu_s_per_1k", "peak_memory_mb", "start_s"):
        assert name in proof.ratios, name
    assert all(run.others_share is not None for run in proof.runs)
    assert proof.contenders["baseline"].settings["dtype"] == "bf16"
    assert proof.contenders["baseline"].weights == proof.contenders["candidate"].weights
    raw = read_result(tmp_path / "bundle")
    assert raw["verdict"]["metric"] == "tokens_per_s"
    lines = (tmp_path / "bundle" / "samples.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 2 * 8
    assert {path.name for path in (tmp_path / "bundle" / "logs").iterdir()} == {
        "baseline.log", "candidate.log", "overhead.log",
    }  # fmt: skip


@pytest.mark.torch
def test_transformers_as_the_baseline(tmp_path: Path) -> None:
    chosen = plan(model("demo", "bf16"), "transformers", workload=preset_workload("chat", 4, 2, None), rounds=1)
    proof = run(chosen, tmp_path / "bundle")
    assert proof.contenders["baseline"].version.startswith("transformers ")
    assert proof.quality is not None
    assert proof.quality.kl is not None
    assert proof.quality.kl < 0.01
    assert proof.quality.overlap is not None
    assert proof.quality.overlap > 0.9


def test_a_damaged_model_is_caught(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(demo.model_folder(), broken)
    checkpoint = Checkpoint.open(broken)
    tensors = {name: np.array(checkpoint.tensor(name)) for name in checkpoint.names}
    write_safetensors(broken / "model.safetensors", {name: two_bits(values) for name, values in tensors.items()})
    proof = run(plan(model(str(broken), "bf16"), str(demo.model_folder())), tmp_path / "bundle")
    assert proof.verdict is not None
    assert not proof.verdict.proven
    said = " ".join(proof.verdict.reasons)
    assert "KL divergence" in said
    assert "of the answers are right" in said


def two_bits(values: Any) -> Any:
    """Rounded to four levels per row; vectors stay."""
    if values.ndim < 2:
        return values
    wide = values.astype(np.float32)
    step = np.abs(wide).max(axis=-1, keepdims=True) / 2 + 1e-12
    return (np.clip(np.round(wide / step), -2, 1) * step).astype(values.dtype)


def test_a_slowed_candidate_is_caught_and_a_fast_one_seen(tmp_path: Path) -> None:
    words = ("It", " is", ".")
    slow, fast = (
        Script(between_s=0.06, words=words),
        Script(between_s=0.001, words=words),
    )  # however busy the machine is
    with scripted(slow) as slow_url, scripted(fast) as fast_url:
        chosen = {"demands": Demands(target=1.5), "rounds": 6, "workload": preset_workload("chat", 4, 4, None)}
        lost = run(plan(address(slow_url), fast_url, **chosen), tmp_path / "slow")
        won = run(plan(address(fast_url), slow_url, **chosen), tmp_path / "fast")
    assert lost.verdict is not None
    assert won.verdict is not None
    assert not lost.verdict.proven
    assert lost.ratios["tokens_per_s"].high < 1
    assert won.ratios["tokens_per_s"].low > 1.5
    # both give the same wrong words: equal, so nothing is lost
    assert won.verdict.proven, won.verdict.headline
    assert won.quality is not None
    assert won.quality.kind == "answers"
    assert "address" in won.quality.reason


@pytest.mark.parametrize(("script", "said"), [
    (Script(status=500), "answered 500"),
    (Script(breaks_after=2), "broke off after 2 pieces"),
    (Script(raw=b"data: {nonsense\n\ndata: [DONE]\n\n"), "no JSON"),
    (Script(raw=b"<html>hello</html>"), "broke off after 0 pieces"),
])  # fmt: skip
def test_a_server_that_lies_ends_the_proof_and_what_there_is_stays(tmp_path: Path, script: Script, said: str) -> None:
    with scripted(Script()) as good, scripted(script) as bad:
        with pytest.raises(BenchError, match="candidate answered no request") as caught:
            run(plan(address(bad), good), tmp_path / "bundle")
        assert said in str(caught.value)
    raw = read_result(tmp_path / "bundle")
    assert raw["status"] == "partial"
    assert not raw["verdict"]["proven"]
    assert said in raw["problems"][0]


def test_a_server_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with scripted(Script()) as good:
        with pytest.raises(BenchError, match="cannot be reached"):
            run(plan(address("http://127.0.0.1:9"), good), tmp_path / "candidate")
        with pytest.raises(BenchError, match="cannot be reached"):
            run(plan(address(good), "http://127.0.0.1:9"), tmp_path / "baseline")
    for name, started in (("candidate", ["baseline"]), ("baseline", [])):
        raw = read_result(tmp_path / name)
        assert (raw["status"], list(raw["contenders"])) == ("partial", started)
        assert "cannot be reached" in raw["problems"][0]


def test_a_model_that_does_not_come_up_is_said_with_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"baseline .* did not come up: .*threads is 100000"):
        run(plan(replace(model("demo"), threads=100_000), "bf16"), tmp_path / "bundle")


def test_a_bundle_is_never_written_into_another_and_changes_are_noticed(tmp_path: Path) -> None:
    with scripted(Script()) as one, scripted(Script()) as other:
        run(plan(address(one), other), tmp_path / "bundle")
    with pytest.raises(SettingsError, match="is not empty"):
        Bundle(tmp_path / "bundle")
    path = tmp_path / "bundle" / "result.json"
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(BenchError, match="is not what SHA256SUMS says"):
        read_result(tmp_path / "bundle")
    with pytest.raises(BenchError, match="no proof that can be read"):
        read_result(tmp_path)


def test_an_address_has_no_dtype_of_its_own() -> None:
    with pytest.raises(SettingsError, match="needs the candidate's files"):
        read_baseline("bf16", address("http://127.0.0.1:1"), None, "", "")


@pytest.mark.slow
def test_a_against_a_is_1_in_19_of_20_runs(tmp_path: Path) -> None:
    held = []
    for seed in range(20):
        chosen = plan(model("demo"), "w8a8", seed=seed, rounds=7)
        ratio = run(chosen, tmp_path / str(seed)).ratios["tokens_per_s"]
        held.append(ratio.low <= 1 <= ratio.high)
        print(seed, json.dumps(ratio.__dict__))
    assert sum(held) >= 19
