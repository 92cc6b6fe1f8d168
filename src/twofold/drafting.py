"""A draft model beside the main one: checked before any weight is read, loaded, and made the engine's guesser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from twofold.config import DTYPES, Settings, choose_dtype
from twofold.engine.draft import DraftModel
from twofold.engine.guess import MOST_SEQUENCES, Guesser
from twofold.engine.policy import LENGTHS, GuessPolicy
from twofold.errors import SettingsError
from twofold.export.manifest import ExportedGraph
from twofold.loading import WORKING_BYTES, Loaded, Model, Progress, load_model, open_model
from twofold.ops.cost import row_costs
from twofold.text.tokenizer import check_same_tokens
from twofold.weights.memory import available_memory, check_memory


def check_draft(path_or_id: str | Path, settings: Settings) -> None:
    """Whether the draft model of these settings can guess for this model; nothing is read but headers and tokenizers.

    Raises SettingsError for another vocabulary size, TokenizerError for other tokens, OutOfMemory when the weights
    of both do not fit.
    """
    assert settings.draft is not None, "there is a draft model to check"
    main, draft = open_model(path_or_id), open_model(settings.draft)
    sizes = main.architecture.vocabulary, draft.architecture.vocabulary
    if sizes[0] != sizes[1]:
        raise SettingsError(
            f"the draft model {settings.draft} has a vocabulary of {sizes[1]} tokens, the model one of {sizes[0]}; "
            "a draft model must have the same tokens. Choose one of the same family."
        )
    if not has_same_file(main.folder, draft.folder):
        check_same_tokens(main.files.tokenizer(), draft.files.tokenizer(), str(settings.draft))
    dtype = choose_dtype(settings, main.packed_dtype, main.quantised_dtype)
    weights = main.footprint(dtype).total_bytes + draft.footprint(draft_dtype(draft, dtype)).total_bytes
    check_memory(weights + WORKING_BYTES, available_memory(), [])


def has_same_file(one: Path, other: Path) -> bool:
    """Whether both folders hold the same tokenizer.json to the byte, and so the same tokens."""
    files = [folder / "tokenizer.json" for folder in (one, other)]
    return all(file.exists() for file in files) and files[0].read_bytes() == files[1].read_bytes()


def draft_dtype(draft: Model, main_dtype: str) -> str:
    """What a draft model runs as: its own where it is packed or quantised, else as the main model, if it can."""
    return draft.own_dtype or (main_dtype if main_dtype in DTYPES else "bf16")


def load_draft(settings: Settings, main: Loaded, progress: Progress | None) -> Loaded:
    """Load the draft model of these settings, with a cache for as many sequences as are guessed for at once.

    It runs with the main model's dtype, a packed or quantised folder with its own.
    """
    assert settings.draft is not None, "there is a draft model to load"
    opened = open_model(settings.draft)
    context = min(main.settings.context, opened.architecture.context)
    is_same_kind = isinstance(opened.store, ExportedGraph) == isinstance(main.model.store, ExportedGraph)
    chosen = replace(
        settings,
        backend=settings.backend if is_same_kind else None,
        device=settings.device if is_same_kind else None,
        dtype=None if opened.own_dtype else draft_dtype(opened, main.settings.dtype),
        context=context,
        cache_tokens=MOST_SEQUENCES * context,
        max_sequences=MOST_SEQUENCES,
        draft=None,
        expert_cache=None,
        ranks=None,  # it is small: the first rank runs it alone
    )
    return load_model(settings.draft, chosen, progress)


def build_guesser(main: Loaded, draft: Loaded | None) -> Guesser | None:
    """What guesses for this model; None when its settings forbid it."""
    most = main.settings.guess_tokens
    if not most:
        return None
    counted = main.model.footprint(main.settings.dtype)
    costs = row_costs(counted, main.model.architecture.expert_count, MOST_SEQUENCES * (1 + LENGTHS[-1]))
    if draft is None:
        return Guesser(GuessPolicy(most, costs))
    read = draft.model.footprint(draft.settings.dtype).read_bytes_per_token
    model = DraftModel(
        draft.ops,
        draft.forward,
        draft.model.architecture.cache_shape,
        draft.layout,
        draft.settings.context,
        draft.settings.step_tokens,
    )
    return Guesser(GuessPolicy(most, costs, read / counted.read_bytes_per_token), model)
