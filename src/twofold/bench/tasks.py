"""The tasks of lm-eval (EleutherAI's evaluation harness), run through LLM. Needs the extra `eval`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from twofold.api import LLM
from twofold.bench.scoring import Scorer
from twofold.errors import SettingsError


def check_extra() -> None:
    """Raise SettingsError when lm-eval is not there."""
    if find_spec("lm_eval") is None:
        raise SettingsError("--tasks needs lm-eval, which is not installed. Run: pip install 'twofold[eval]'")


def run_tasks(llm: LLM, names: Sequence[str], limit: int | None = None) -> dict[str, dict[str, Any]]:
    """Metrics of every task and group, by name: "acc,none", "acc_stderr,none" and so on, as lm-eval names them.

    A name is one of lm-eval's tasks or the path of a .yaml file of one; `limit` takes the first so many questions.
    Raises SettingsError without the extra and for unknown names.
    """
    check_extra()
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    for name in names:
        if not (Path(name).is_file() if is_file(name) else manager.match_tasks([name])):
            raise SettingsError(
                f"task {name!r} is neither one of lm-eval's nor a .yaml file; `lm-eval ls tasks` lists what there is"
            )
    tasks = [str(Path(name).absolute()) if is_file(name) else name for name in names]
    found = simple_evaluate(model=adapter(llm), tasks=tasks, task_manager=manager, limit=limit, log_samples=False)
    return {
        name: {metric: value for metric, value in figures.items() if isinstance(value, int | float)}
        for name, figures in found["results"].items()
    }


def is_file(name: str) -> bool:
    """Whether a task is named by its file."""
    return name.endswith((".yaml", ".yml"))


def adapter(llm: LLM) -> Any:
    """A model as lm-eval wants it: its only way in is a subclass of its own LM, so here we inherit."""
    from lm_eval.api.model import LM

    scorer = Scorer(llm)

    class Adapter(LM):  # type: ignore[misc]
        """Hands requests to a Scorer. Requests come with their texts in `args`."""

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return [scorer.continuation(*request.args) for request in requests]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return [scorer.whole(request.args[0]) for request in requests]

        def generate_until(self, requests: list[Any]) -> list[str]:
            groups: dict[str, list[int]] = {}
            for index, request in enumerate(requests):
                groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(index)
            answers: dict[int, str] = {}
            for members in groups.values():
                prompts = [requests[index].args[0] for index in members]
                answers |= zip(members, scorer.answers(prompts, requests[members[0]].args[1]), strict=True)
            return [answers[index] for index in range(len(requests))]

    return Adapter()
