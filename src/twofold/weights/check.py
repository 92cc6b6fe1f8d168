"""Whether a checkpoint holds what a network's weight table asks for, said before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from twofold.errors import MissingTensor, WrongTensor
from twofold.ops.types import Source, Target
from twofold.weights.quantised import Store

FLOAT_DTYPES = ("F32", "F16", "BF16")
LISTED_NAMES = 50
SUGGESTIONS = 3  # each one compares with every name of the checkpoint


def check_sources(checkpoint: Store, targets: Sequence[Target]) -> None:
    """Raise MissingTensor (naming all of them) or WrongTensor unless every source is there as expected."""
    for target in targets:
        check_table(target)
    sources = list(all_sources(targets))
    names = checkpoint.names
    missing = sorted({source.name for source in sources if source.name not in names})
    if missing:
        raise MissingTensor(describe_missing(missing, sorted(names)))
    for source in sources:
        check_source(checkpoint, source)


def all_sources(targets: Iterable[Target]) -> Iterable[Source]:
    """Every source of every target."""
    return (source for target in targets for parts in target.sources for source in parts)


def check_table(target: Target) -> None:
    """The weight table is ours: its sources must add up to its target."""
    matrices = target.shape[0] if len(target.shape) > 2 else 1
    assert len(target.sources) == matrices, f"{target.name}: {len(target.sources)} matrices listed, not {matrices}"
    rows = target.shape[-2] if len(target.shape) > 1 else 1
    for sources in target.sources:
        found = sum(source.rows for source in sources)
        assert found == rows, f"{target.name}: its sources have {found} rows, the weight has {rows}"
        for source in sources:
            columns = source.shape[-2] if source.transposed else source.shape[-1]
            assert columns == target.shape[-1], f"{target.name}: {source.name} has {columns} columns"


def check_source(checkpoint: Store, source: Source) -> None:
    """Shape and dtype of one source."""
    shape, dtype = checkpoint.shape(source.name), checkpoint.dtype(source.name)
    if dtype not in FLOAT_DTYPES:
        quantised = dtype not in ("F64", "BOOL")
        why = "Quantised checkpoints come with a later release; use" if quantised else "Convert it, or use"
        raise WrongTensor(
            f"tensor {source.name!r} is {dtype}; {', '.join(FLOAT_DTYPES)} can be loaded. "
            f"{why} the bfloat16 or float32 version of this model."
        )
    if shape != source.shape:
        raise WrongTensor(
            f"tensor {source.name!r} has shape {list(shape)}; config.json asks for {list(source.shape)}. "
            "Config and weights are of different models; download both from one place."
        )


def describe_missing(missing: Sequence[str], names: Sequence[str]) -> str:
    """The missing names, the nearest existing one beside the first few."""
    lines = []
    for position, name in enumerate(missing[:LISTED_NAMES]):
        near = get_close_matches(name, names, n=1, cutoff=0.7) if position < SUGGESTIONS else []
        lines.append(f"  {name}" + (f" (nearest: {near[0]})" if near else ""))
    if len(missing) > LISTED_NAMES:
        lines.append(f"  and {len(missing) - LISTED_NAMES} more")
    return (
        f"{len(missing)} of the network's tensors are not among the {len(names)} of the checkpoint:\n"
        + "\n".join(lines)
        + "\nThe config.json may belong to another model, or the weights may use another layout; "
        "use the folder as published on the hub."
    )
