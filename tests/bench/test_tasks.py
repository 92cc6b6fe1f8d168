"""lm-eval's tasks run through LLM; without lm-eval, the way to install it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from twofold import LLM
from twofold.bench.scoring import Scorer
from twofold.bench.tasks import run_tasks
from twofold.errors import SettingsError

QUESTIONS = [
    {"question": "Which of these is a colour?", "choices": ["red", "run", "seven and eight"], "answer": 0},
    {"question": "Which of these is a number?", "choices": ["blue", "four", "walk"], "answer": 1},
    {"question": "Which of these is a verb?", "choices": ["green", "nine", "to sing"], "answer": 2},
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}\\nAnswer:"
metadata:
  version: 1
"""
CHOICE = 'doc_to_choice: "{{choices}}"\ndoc_to_target: answer\nmetric_list:\n  - metric: acc\n'
ANSWER = (
    'doc_to_target: "{{choices[answer]}}"\ngeneration_kwargs:\n  until: ["\\n"]\n  max_gen_toks: 8\n'
    "metric_list:\n  - metric: exact_match\n"
)
WHOLE = 'doc_to_target: "{{question}}"\nmetric_list:\n  - metric: word_perplexity\n'


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-eval is there")
def test_without_lm_eval_the_extra_is_named() -> None:
    with pytest.raises(SettingsError, match=r"pip install 'twofold\[eval\]'"):
        run_tasks(LLM("demo"), ["arc_easy"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in QUESTIONS))
    for name, kind, rest in (
        ("choice", "multiple_choice", CHOICE),
        ("answer", "generate_until", ANSWER),
        ("whole", "loglikelihood_rolling", WHOLE),
    ):
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, data=data, kind=kind) + rest)
    return tmp_path


@pytest.mark.lm_eval
@pytest.mark.filterwarnings("default")
def test_every_kind_of_task_runs(folder: Path) -> None:
    llm = LLM("demo")
    found = run_tasks(llm, [str(folder / f"{name}.yaml") for name in ("choice", "answer", "whole")])
    scorer = Scorer(llm)
    right = []
    for row in QUESTIONS:
        scores = [scorer.continuation(f"{row['question']}\nAnswer:", f" {choice}")[0] for choice in row["choices"]]
        right.append(scores.index(max(scores)) == row["answer"])
    assert found["choice"]["acc,none"] == pytest.approx(sum(right) / len(right))
    assert 0 <= found["answer"]["exact_match,none"] <= 1
    assert found["whole"]["word_perplexity,none"] > 1


@pytest.mark.lm_eval
@pytest.mark.filterwarnings("default")
def test_a_limit_takes_the_first_questions_and_unknown_tasks_are_refused(folder: Path) -> None:
    llm = LLM("demo")
    found = run_tasks(llm, [str(folder / "choice.yaml")], limit=1)
    assert found["choice"]["acc,none"] in (0.0, 1.0)
    for name in ("no_such_task", str(folder / "nowhere.yaml")):
        with pytest.raises(SettingsError, match="neither one of lm-eval's"):
            run_tasks(llm, [name])
