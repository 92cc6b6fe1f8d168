"""All settings of a model in use: frozen, strict, with every "auto" turned into a value by `resolve`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from twofold.errors import SettingsError
from twofold.ops.types import KvDtype

BACKENDS = ("cpu", "gpu", "onnx", "reference")
DTYPES = ("f32", "bf16", "w8a8", "w4a8")
"""From the most to the fewest bits."""
KV_DTYPES: tuple[KvDtype, ...] = get_args(KvDtype)
ExpertSplit = Literal["width", "expert"]
EXPERT_SPLITS: tuple[ExpertSplit, ...] = get_args(ExpertSplit)
CHOICES = (
    ("dtype", DTYPES),
    ("backend", BACKENDS),
    ("kv_cache_dtype", KV_DTYPES),
    ("expert_split", EXPERT_SPLITS),
)
"""Settings that have one of a few values."""
DEFAULT_CONTEXT = 8192
ROOMY_CACHE_BYTES = 512 * 2**20
ROOMY_SEQUENCES = 16
MOST_THREADS = 256
"""What the pool of the native kernels can hold (native/threads.cpp)."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a user may choose; None means automatic.

    dtype: f32, bf16, w8a8 or w4a8; automatic is bf16, or what the folder holds. backend: cpu (native kernels), gpu
    (torch and Triton), onnx (an exported folder in ONNX Runtime) or reference (NumPy, slow); automatic is onnx for an
    exported folder, gpu where torch sees a device, else cpu. device: where the gpu backend runs, as torch names it
    (cuda, cuda:1, xpu, mps, cpu), automatic is the first one there is; of the onnx backend its execution provider (cpu,
    cuda, tensorrt, migraphx, openvino, qnn, coreml, dml), automatic is cpu. kv_cache_dtype: how keys and values are
    kept, f32, bf16 or int8 (half the memory and the reading of bf16, a little less exact); automatic is int8 where the
    folder says that it passed its test with these weights (twofold eval --gate-kv), else bf16, and f32 with dtype f32.
    context: longest sequence in tokens. cache_tokens: tokens the cache holds over all sequences. step_tokens: most
    tokens run in one step. max_step_ms: milliseconds a step may take for reading prompts while other sequences decode
    (0: no limit). max_sequences: most sequences served at once. threads: threads of the native kernels. guess_tokens:
    most tokens guessed at once (0: never), from what the text has said before or by the draft model; answers are the
    same with and without, only their speed differs. draft: a small model with the same vocabulary, as folder or hub id;
    it runs as packed, else with this model's dtype. prefix_cache: what was computed for one prompt serves the next one
    that begins alike; answers are the same. ranks: processes that share one model on the gpu
    backend, each with a device of its own; automatic is 1. expert_split: how they share routed experts, each a part of
    every one (width, automatic) or each some (expert). expert_cache: bytes of the gpu backend's device for routed
    experts, which then stay in the host's memory and take turns; automatic is all where they fit, else what is left.
    """

    dtype: str | None = None
    backend: str | None = None
    device: str | None = None
    kv_cache_dtype: KvDtype | None = None
    context: int | None = None
    cache_tokens: int | None = None
    step_tokens: int = 512
    max_step_ms: int = 0
    max_sequences: int = 64
    threads: int | None = None
    guess_tokens: int = 7
    draft: str | Path | None = None
    prefix_cache: bool = False
    ranks: int | None = None
    expert_cache: int | None = None
    expert_split: ExpertSplit | None = None

    def __post_init__(self) -> None:
        for name, known in CHOICES:
            if getattr(self, name) not in (None, *known):
                raise SettingsError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        self.check_device()
        for name in ("context", "cache_tokens", "step_tokens", "max_sequences", "threads", "ranks", "expert_cache"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise SettingsError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if self.threads is not None and self.threads > MOST_THREADS:
            raise SettingsError(
                f"threads is {self.threads}; at most {MOST_THREADS} can be used. Leave it out for all cores."
            )
        if isinstance(self.max_step_ms, bool) or not isinstance(self.max_step_ms, int) or self.max_step_ms < 0:
            raise SettingsError(f"max_step_ms is {self.max_step_ms!r}; it must be a whole number, 0 for no limit")
        if isinstance(self.guess_tokens, bool) or not 0 <= self.guess_tokens <= 7:
            raise SettingsError(f"guess_tokens is {self.guess_tokens!r}; it must be a whole number from 0 to 7")
        if self.draft is not None and (not isinstance(self.draft, str | Path) or not str(self.draft)):
            raise SettingsError(f"draft is {self.draft!r}; it must be a folder or a hub id of a model")
        if self.draft is not None and not self.guess_tokens:
            raise SettingsError("a draft model is named, and guess_tokens is 0; raise it or leave out the draft")

    def check_device(self) -> None:
        """Refuse a device beside a backend that has none."""
        if self.backend in ("cpu", "reference") and self.device not in (None, "cpu"):
            raise SettingsError(f"backend {self.backend} runs on the CPU, and device is {self.device!r}; leave one out")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from keywords; raises SettingsError for an unknown one, naming the nearest."""
        names = [item.name for item in fields(cls)]
        for key in values:
            if key not in names:
                near = get_close_matches(key, names, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
                raise SettingsError(f"unknown setting {key!r}; {hint}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Settings with every value decided. device: "cpu", or where the gpu or onnx backend runs."""

    dtype: str
    backend: str
    device: str
    kv_cache_dtype: KvDtype
    context: int
    cache_tokens: int
    step_tokens: int
    max_step_ms: int
    max_sequences: int
    threads: int | None
    guess_tokens: int
    prefix_cache: bool
    ranks: int = 1
    expert_cache: int = 0
    expert_split: ExpertSplit = "width"


def choose_dtype(settings: Settings, packed_dtype: str | None, quantised_dtype: str | None = None) -> str:
    """The scheme to run: as asked for, as packed or quantised, else bf16.

    A quantised checkpoint can be converted to another scheme, a packed folder cannot: that raises SettingsError.
    """
    if packed_dtype is None:
        return settings.dtype or quantised_dtype or "bf16"
    if settings.dtype not in (None, packed_dtype):
        raise SettingsError(
            f"dtype is {settings.dtype!r}, and this folder holds {packed_dtype} weights; "
            "leave dtype out or load the original checkpoint"
        )
    return packed_dtype


def choose_kv_dtype(settings: Settings, dtype: str, int8_passed: bool = False) -> KvDtype:
    """How keys and values are kept: as asked for, else float32 where exactness is asked for, else bfloat16.

    int8 is chosen only for a model it was tested with.
    """
    if settings.kv_cache_dtype is not None:
        return settings.kv_cache_dtype
    if dtype == "f32" or settings.backend == "reference":
        return "f32"
    return "int8" if int8_passed else "bf16"


def resolve(
    settings: Settings,
    place: tuple[str, str],
    dtype: str,
    kv_cache_dtype: KvDtype,
    model_context: int,
    cache_bytes_per_token: int,
) -> Resolved:
    """Decide every automatic value for a model made for `model_context` positions.

    The dtypes are chosen already, and so are backend and device (`place`).

    The context defaults to the model's own, at most 8192 tokens (longer ones cost memory and are asked for by name).
    The cache defaults to one full context, or to several where they take less than 512 MiB.
    Raises SettingsError for a context longer than the model's.
    """
    context = min(model_context, DEFAULT_CONTEXT) if settings.context is None else settings.context
    if context > model_context:
        raise SettingsError(f"context is {context}; this model was made for at most {model_context} tokens")
    roomy = min(ROOMY_SEQUENCES * context, ROOMY_CACHE_BYTES // max(1, cache_bytes_per_token))
    cache_tokens = max(context, roomy) if settings.cache_tokens is None else settings.cache_tokens
    if cache_tokens < context:
        raise SettingsError(
            f"cache_tokens is {cache_tokens}, less than one context of {context}; raise it or lower context"
        )
    return Resolved(
        dtype=dtype,
        backend=place[0],
        device=place[1],
        kv_cache_dtype=kv_cache_dtype,
        context=context,
        cache_tokens=cache_tokens,
        step_tokens=settings.step_tokens,
        max_step_ms=settings.max_step_ms,
        max_sequences=settings.max_sequences,
        threads=settings.threads,
        guess_tokens=settings.guess_tokens,
        prefix_cache=settings.prefix_cache,
        ranks=settings.ranks or 1,
        expert_split=settings.expert_split or "width",
    )
