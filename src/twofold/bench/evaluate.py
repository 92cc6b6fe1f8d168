"""The figures of `twofold eval`: one model on a text, alone or against another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twofold.api import LLM
from twofold.bench.quality import Quality, layer_errors, score, texts_of
from twofold.errors import SettingsError
from twofold.text.rows import Row


def evaluate(
    llm: LLM, rows: Sequence[Row], against: LLM | None, progress: Callable[[int], None] | None = None
) -> Quality:
    """Judge a model on rows of text; KL divergence and agreement come with a model to compare with.

    Raises SettingsError when the two models do not share a tokenizer, or when no token of the rows counts.
    """
    if against is not None:
        check_comparable(llm, against)
    scored = score(llm, texts_of(llm, rows), against, progress)
    if not len(scored.losses):
        raise SettingsError("the text has no token to judge; two tokens at least, or an assistant's turn, are needed")
    return Quality(dtype=llm.loaded.settings.dtype, **scored.figures())


def errors_by_layer(llm: LLM, rows: Sequence[Row], against: LLM) -> list[tuple[float, float]]:
    """Relative squared error after attention and feed-forward of every layer; see quality.layer_errors."""
    check_comparable(llm, against)
    return layer_errors(llm, against, texts_of(llm, rows))


def check_comparable(llm: LLM, against: LLM) -> None:
    """KL divergence compares distributions over the same tokens."""
    ours, theirs = (model.loaded.model.architecture.vocabulary for model in (llm, against))
    probe = "The quick brown fox, 1984: übergrößte Maße!\n\tdef f(x): return x**2"
    if ours != theirs or llm.encode(probe) != against.encode(probe):
        raise SettingsError(
            f"the models do not share a tokenizer (vocabularies of {ours} and {theirs}); KL divergence compares "
            "distributions over the same tokens. Compare a model with the checkpoint it was made from."
        )
