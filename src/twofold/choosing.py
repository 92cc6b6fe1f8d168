"""Which bits every part of a network gets in the scheme `mixed`: damage measured, then chosen within a budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from twofold.damage import Damages, judge_folder, measure_damages
from twofold.errors import QuantisationError, SettingsError
from twofold.ops.cost import footprint
from twofold.ops.formats import format_of
from twofold.ops.interface import Ops
from twofold.ops.packed import Format
from twofold.quant.choose import Option, Options, least_damage, least_size
from twofold.quant.groups import Group, group_units
from twofold.quant.schemes import MIXED, scheme
from twofold.weights.write import write_json

if TYPE_CHECKING:
    from twofold.quantising import Job

DAMAGES, CHOICE = "damages.json", "choice.json"
MOST_TOKENS = 4096
"""Tokens that damage is measured on. With 9,278 instead of 2,389 of them the demo's choices were nearly the same."""
MOST_BYTES = 4 * 2**30
"""Memory for all copies of their residual streams, which lowers the number of tokens in large networks."""
TEXT_TOKENS = 256
TEXT_SHARE = 8
"""One calibration text in so many, at most, is kept for measuring; with fewer texts all serve for both."""
GPTQ_SHARE = 0.5
"""What GPTQ leaves of the damage that rounding to four bits does: 0.24 to 0.88 over the demo's groups, 0.5 in all."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The format of every group and what it stands on.

    damages: of each group in each format, in nats, as GPTQ leaves them where it is used; bits_per_weight and
    memory_bytes: of the groups' weights in memory, scales included; read_bytes_per_token: of the whole network;
    predicted_kl: the sum of the damages chosen.
    """

    budget: str
    formats: Mapping[str, Format]
    damages: Damages
    memory_bytes: Mapping[str, int]
    bits_per_weight: float
    read_bytes_per_token: int
    predicted_kl: float

    def report(self, texts: Sequence[Sequence[int]], measured_kl: float) -> dict[str, Any]:
        """For the report."""
        return {
            "budget": self.budget,
            "texts": len(texts),
            "tokens": sum(map(len, texts)),
            "bits_per_weight": self.bits_per_weight,
            "memory_bytes": sum(self.memory_bytes.values()),
            "read_bytes_per_token": self.read_bytes_per_token,
            "predicted_kl": self.predicted_kl,
            "measured_kl": measured_kl,
            "groups": [
                {"name": name, "format": form, "memory_bytes": self.memory_bytes[name], "damages": self.damages[name]}
                for name, form in self.formats.items()
            ],
        }


def split_texts(job: Job) -> Job:
    """Keep some texts of a mixed job for measuring, evenly spread, TEXT_TOKENS of each; GPTQ gets the others."""
    if job.recipe.scheme != MIXED:
        return job
    copies = 1 + sum(len(group.formats) - 1 for group in group_units(job.units))
    tokens = min(MOST_TOKENS, MOST_BYTES // (copies * job.model.architecture.hidden * 4))
    length, texts = max(2, min(TEXT_TOKENS, tokens)), job.texts
    count = min(max(1, tokens // length), max(1, len(texts) // TEXT_SHARE))
    taken = {index * len(texts) // count for index in range(count)}
    rest = [ids for index, ids in enumerate(texts) if index not in taken] if len(texts) >= TEXT_SHARE else texts
    return replace(job, texts=rest, sample=[texts[index][:length] for index in sorted(taken)])


def decide(job: Job, ops: Ops, progress: Progress | None) -> Job:
    """The job with a format for every matrix; of another scheme than mixed, as it is."""
    if job.recipe.scheme != MIXED:
        return job
    groups = group_units(job.units)
    choice = choose_formats(job, groups, known_damages(job, groups, ops, progress))
    keep_choice(job, choice)
    return replace(job, kinds={**job.kinds, **by_target(groups, choice.formats)}, choice=choice)


def check_budget(job: Job) -> None:
    """Raise SettingsError for a budget that makes no sense or cannot be met, as far as that is known beforehand."""
    if job.recipe.scheme != MIXED:
        if job.budget.kind != "w4a8":
            raise SettingsError(
                f"--budget is for --scheme {MIXED}; {job.recipe.scheme} has its own bits. Leave one of them out"
            )
        return
    groups = group_units(job.units)
    limit = limit_bytes(job, groups)
    if limit is None:
        return
    least = sum(min(bytes_of(job, group, form) for form in group.formats) for group in groups)
    most = sum(bytes_of(job, group, "bf16") for group in groups)
    if limit < least:
        raise SettingsError(f"budget {job.budget.text} cannot be met: the least is {written(job, groups, least)}")
    if limit >= most:
        raise SettingsError(
            f"budget {job.budget.text} leaves nothing to do: the matrices as they are take {written(job, groups, most)}"
        )


def written(job: Job, groups: Sequence[Group], size_bytes: int) -> str:
    """Bytes of all groups in the unit of the budget, rounded up."""
    if job.budget.kind == "bytes":
        total = size_bytes + other_bytes(job, groups)
        scale, unit = (10**9, "GB") if total >= 10**9 else (10**6, "MB")
        return f"{ceil(1000 * total / scale) / 1000}{unit} with all that is copied"
    return f"{ceil(8e3 * size_bytes / sum(group.weights for group in groups)) / 1000}bit"


def known_damages(job: Job, groups: Sequence[Group], ops: Ops, progress: Progress | None) -> Damages:
    """What every format does to every group: measured, unless that was done before; with GPTQ's share of it."""
    path = job.folder / DAMAGES
    if not path.exists():
        write_json(path, measure_damages(job.model, groups, job.sample, ops, progress))
    damages: Damages = json.loads(path.read_text())
    if job.recipe.method != "gptq":
        return damages
    seen = [group.name for group in groups if group.unit.name != "embedding"]
    return damages | {
        name: {form: value * (1 if form == "int8" else GPTQ_SHARE) for form, value in damages[name].items()}
        for name in seen
    }


def choose_formats(job: Job, groups: Sequence[Group], damages: Damages) -> Choice:
    """The least damage within the budget; for one of KL divergence the least size."""
    options: Options = {
        group.name: [
            Option(format=form, size_bytes=bytes_of(job, group, form), damage=damages[group.name][form])
            for form in group.formats
        ]
        for group in groups
    }
    limit = limit_bytes(job, groups)
    chosen = least_size(options, job.budget.amount) if limit is None else least_damage(options, limit)
    formats = {name: option.format for name, option in chosen.items()}
    if set(formats.values()) == {"bf16"}:
        least = min(value for found in damages.values() for form, value in found.items() if form != "bf16")
        raise SettingsError(
            f"budget {job.budget.text} leaves every matrix as it is: rounding any of them costs {least:.2g} or more. "
            "Raise it"
        )
    model = job.model
    cost = footprint(
        model.targets,
        {"norm": "f32", "router": "f32", **by_target(groups, formats)},
        model.architecture.active_experts,
        model.has_tied_head,
    )
    sizes = {group.name: group.memory_bytes(formats[group.name]) for group in groups}
    return Choice(
        budget=job.budget.text,
        formats=formats,
        damages=damages,
        memory_bytes=sizes,
        bits_per_weight=8 * sum(sizes.values()) / sum(group.weights for group in groups),
        read_bytes_per_token=cost.read_bytes_per_token,
        predicted_kl=sum(damages[name][form] for name, form in formats.items()),
    )


def by_target(groups: Sequence[Group], formats: Mapping[str, Format]) -> dict[str, Format]:
    """The format of every target, by name."""
    return {target.name: formats[group.name] for group in groups for target in group.targets}


def keep_choice(job: Job, choice: Choice) -> None:
    """Note the choice in the half-written folder; refuse another one than its finished units were made with."""
    path = job.folder / CHOICE
    if path.exists() and json.loads(path.read_text()) != choice.formats and job.shard(0).exists():
        raise QuantisationError(
            f"{job.folder} is the half-written folder of a run with another budget. "
            "Start that run again to finish it, or remove the folder."
        )
    write_json(path, choice.formats)


def limit_bytes(job: Job, groups: Sequence[Group]) -> int | None:
    """Most bytes of all groups together, in the measure of bytes_of; None for a limit of KL divergence."""
    if job.budget.kind == "kl":
        return None
    if job.budget.kind == "w4a8":
        uniform = scheme("w4a8")
        return sum(group.memory_bytes(format_of(uniform, group.targets[0])) for group in groups)
    if job.budget.kind == "bit":
        return int(job.budget.amount * sum(group.weights for group in groups) / 8)
    return int(job.budget.amount) - other_bytes(job, groups)


def bytes_of(job: Job, group: Group, form: Format) -> int:
    """Bytes that count: of the files for a budget of bytes, else in memory."""
    if job.budget.kind == "bytes":
        return group.file_bytes(form, job.store, job.output_targets)
    return group.memory_bytes(form)


def other_bytes(job: Job, groups: Sequence[Group]) -> int:
    """Bytes of the tensors that are copied: norms, routers, what is not part of the network."""
    return job.store.size_bytes - sum(group.file_bytes("bf16", job.store, job.output_targets) for group in groups)


def report_choice(job: Job, ops: Ops, progress: Progress | None) -> dict[str, Any] | None:
    """The choice for the report, with the true KL divergence of the folder on the texts kept for measuring."""
    if job.choice is None:
        return None
    return job.choice.report(job.sample, judge_folder(job.model, job.folder, job.sample, ops, progress))
