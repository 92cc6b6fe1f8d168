"""Cases that judge a backend: what to call, with which sizes, and how close to the reference it must come.

A case is data; `run` performs it on any backend. Errors are measured against the largest value of the reference's
result. Sizes lie around the widths of panels (16 rows), groups (32
columns), column steps (64), tiles (16 and 2 x 16 tokens) and vectors.

Exceptions to "row i of a batch is bit-equal to row i alone" are named in ROW_EXCEPTIONS, with their reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from twofold.ops import packed
from twofold.ops.interface import Ops
from twofold.ops.packed import BF16, AnyArray, Floats, Format, Packed
from twofold.ops.types import Array, KvDtype, Rope, RopeScaling, Temperature

Tensor = Callable[[AnyArray], Array]
"""Turns a NumPy array into a tensor of the backend."""

FORMATS: tuple[Format, ...] = get_args(Format)
TOKENS = (0, 1, 2, 3, 5, 8, 17, 33, 50)
ROWS = (1, 2, 15, 16, 17, 31, 32, 33, 80)
WIDE = (1088, 2150)
"""Columns that integer products take in more than one stretch."""
WIDE_FLOATS = (600,)
"""The same of products with floats."""
COLUMNS = (1, 3, 4, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 300)
WIDTHS = tuple(range(1, 36))


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Largest error allowed, relative to the largest value of the result, and why it is not zero."""

    relative: float
    reason: str


EXACT = Tolerance(relative=0.0, reason="the same operations on the same values")
SUMS = Tolerance(relative=1e-5, reason="float32 sums of up to 600 products in another order")
SQUARES = Tolerance(relative=1e-6, reason="sum of squares in another order, one reciprocal instead of divisions")
GROUPS = Tolerance(relative=3e-5, reason="float32 sums of groups whose offsets partly cancel, in another order")
FUSED = Tolerance(relative=3e-7, reason="a fused multiply-add rounds once, the reference twice")
EXPONENTIAL = Tolerance(relative=2e-6, reason="exp to 2 ulp")
HALVES = Tolerance(relative=2e-5, reason="two products in a row, on tiles of activations that are 2^-17 off each")
HIDDEN_CODES = Tolerance(
    relative=4e-3, reason="where exp differs by an ulp a code of the hidden row may round to its neighbour"
)
HIDDEN_ROWS = Tolerance(
    relative=2e-2, reason="and a row whose codes are on the verge may have its second ones on one side only"
)
SOFTMAX = Tolerance(relative=1e-5, reason="online softmax: exp to 2 ulp, sums rescaled block by block")
ROUNDED = Tolerance(relative=1e-2, reason="what is multiplied is rounded to bf16 first, twice in a row: 2^-9 each")

FLOAT_FORMATS: tuple[Format, ...] = ("f32", "bf16", "fp8")
"""Formats whose products are float32 sums; the others take int8 activations."""
PRODUCTS: dict[Format, Tolerance] = {**dict.fromkeys(FLOAT_FORMATS, SUMS), "group4": GROUPS}
"""Tolerance of products; EXACT for what is not here."""

ROUNDS_TO_BF16 = ("cpu-avx512bf16", "cpu-avxvnni_emulated")
"""Backends that round to bf16 what meets bf16 or fp8 weights or a bf16 cache."""

EXPERTS: dict[Format, Tolerance] = {"f32": SUMS, "bf16": HALVES, "fp8": SUMS}
"""Tolerance of float experts; that of others depends on their rows."""

ROW_EXCEPTIONS: dict[tuple[str, str], str] = {
    ("reference", "linear"): "BLAS adds in another order for one row than for many",
    ("reference", "logits"): "of a float head likewise",
    ("reference", "route"): "its logits come from the same product",
    ("reference", "experts"): "its float products likewise",
    ("torch", "linear"): "the library's float products add in another order for one row than for many",
    ("torch", "logits"): "of a float head likewise",
    ("torch", "route"): "its logits come from the same product",
    ("torch", "experts"): "its float products likewise",
    ("torch", "attend"): "so do the products of its scores",
}
"""(backend, op) whose rows may depend on the rows beside them. Integer weights never do, on any backend."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call of one op.

    `tokens` are its arguments with an axis of tokens in front, `weights` are packed in the formats given,
    `settings` is everything else; CALLS brings them into order.
    """

    op: str
    name: str
    tolerance: Tolerance
    tokens: tuple[AnyArray, ...]
    weights: tuple[tuple[Format, Floats], ...] = ()
    settings: tuple[Any, ...] = ()


def tolerance(case: Case, backend: str) -> Tolerance:
    """How near to the reference, which rounds what the backend rounds, its results must be."""
    rounds_again = backend in ROUNDS_TO_BF16 and case.op == "experts" and {"bf16", "fp8"} & dict(case.weights).keys()
    return ROUNDED if rounds_again else case.tolerance


def attention_tolerance(backend: str, kv_dtype: KvDtype) -> Tolerance:
    """How near to the reference a backend's attention must be."""
    return ROUNDED if backend in ROUNDS_TO_BF16 and kv_dtype == "bf16" else SOFTMAX


Call = Callable[[Ops, list[Array], list[Packed], tuple[Any, ...]], Any]

CALLS: dict[str, Call] = {
    "embed": lambda ops, t, w, s: ops.embed(w[0], t[0]),
    "angles": lambda ops, t, w, s: ops.angles(t[0], *s),
    "norm": lambda ops, t, w, s: ops.norm(t[0], w[0], *s),
    "linear": lambda ops, t, w, s: ops.linear(t[0], w[0]),
    "logits": lambda ops, t, w, s: ops.logits(t[0], w[0]),
    "rotate": lambda ops, t, w, s: ops.rotate(t[0], ops.angles(t[1], *s), *s),
    "unit_norm": lambda ops, t, w, s: ops.unit_norm(t[0], *s),
    "temperature": lambda ops, t, w, s: ops.temperature(t[0], t[1], *s),
    "add": lambda ops, t, w, s: ops.add(t[0], t[1]),
    "swiglu": lambda ops, t, w, s: ops.swiglu(t[0]),
    "route": lambda ops, t, w, s: ops.route(t[0], w[0], *s),
    "experts": lambda ops, t, w, s: ops.experts(t[0], t[1], t[2], w[0], w[1]),
}


def same(x: AnyArray) -> Array:
    """The array itself: what NumPy backends want."""
    return x


def run(case: Case, ops: Ops, tensor: Tensor = same, rows: slice = slice(None)) -> tuple[AnyArray, ...]:
    """Results of a case on a backend, for all its tokens or only for `rows` of them."""
    weights = [pack(ops, form, values) for form, values in case.weights]
    result = CALLS[case.op](ops, [tensor(argument[rows].copy()) for argument in case.tokens], weights, case.settings)
    parts = result if isinstance(result, tuple) else (result,)
    return tuple(np.asarray(ops.download(part)) for part in parts)


def pack(ops: Ops, form: Format, values: Floats) -> Packed:
    """A weight [D], [N, D] or [E, N, D] packed by the backend's own packer."""
    weight = packed.place(form, values.shape, ops.packer.arena(packed.size_bytes(form, values.shape)))
    if values.ndim == 1:
        assert isinstance(weight, packed.Dense)
        weight.values[...] = values
    elif values.ndim == 2:
        ops.packer.encode(values, weight, 0)
    else:
        for index, matrix in enumerate(values):
            ops.packer.encode(matrix, packed.matrix(weight, index), 0)
    return weight


def error(got: tuple[AnyArray, ...], expected: tuple[AnyArray, ...]) -> float:
    """Largest difference relative to the largest expected value; infinite when shapes or dtypes differ."""
    worst = 0.0
    for mine, other in zip(got, expected, strict=True):
        if mine.shape != other.shape or mine.dtype != other.dtype or not np.isfinite(mine).all():
            return float("inf")
        if mine.size:
            scale = max(float(np.abs(other).max()), 1e-30)
            worst = max(worst, float(np.abs(mine.astype(np.float64) - other).max()) / scale)
    return worst


# Arrangements of the same values in memory ------------------------------------------------------------------------


def strided(x: AnyArray) -> AnyArray:
    """Rows of a wider array, as split_heads leaves them; integers stay as they are."""
    if x.dtype != np.float32 or x.ndim < 2:
        return x
    wide = np.full((*x.shape[:-2], x.shape[-2] + 1, x.shape[-1] + 3), np.nan, np.float32)
    view = wide[..., :-1, :-3]
    view[...] = x
    return view


def misaligned(x: AnyArray) -> AnyArray:
    """Values that begin four bytes after a cache line."""
    raw = np.empty(x.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 64 + 4
    if x.dtype.itemsize > 4:
        start += 4
    view: AnyArray = raw[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


LAYOUTS: dict[str, Callable[[AnyArray], AnyArray]] = {"plain": same, "strided": strided, "misaligned": misaligned}


# The cases --------------------------------------------------------------------------------------------------------


def generator(*sizes: int) -> np.random.Generator:
    """Random numbers that depend on nothing but the sizes."""
    return np.random.default_rng([7, *sizes])


def normal(rng: np.random.Generator, *shape: int) -> Floats:
    """Standard normal float32."""
    return rng.standard_normal(shape, np.float32)


def outliers(rng: np.random.Generator, tokens: int, columns: int) -> Floats:
    """Activations as networks have them: a few large columns, one token of zeros."""
    x_TD = mild_outliers(rng, tokens, columns)
    x_TD[1::2, columns // 3] *= 300  # these tokens are wide, see ops.activations
    return x_TD


def mild_outliers(rng: np.random.Generator, tokens: int, columns: int) -> Floats:
    """The same without tokens that are wide."""
    x_TD = normal(rng, tokens, columns)
    x_TD[:, :: 17 + columns // 4] *= 20
    x_TD[2:3] = 0
    return x_TD


def cases(op: str) -> Iterator[Case]:
    """All cases of an op."""
    yield from BUILDERS[op]()


def linear_cases() -> Iterator[Case]:
    """Every format over rows, columns and tokens, one of them varied at a time."""
    sizes = [(t, n, 96) for t in TOKENS for n in ROWS] + [(t, 48, d) for t in TOKENS for d in COLUMNS]
    for form in FORMATS:
        widths = WIDE_FLOATS if form in FLOAT_FORMATS else WIDE
        wide = [(t, 80, d) for t in (1, 7, 20, 33) for d in widths]
        for tokens, rows, columns in sizes + wide:
            rng = generator(tokens, rows, columns)
            yield Case(
                op="linear",
                name=f"{form} {tokens} x {rows} x {columns}",
                tolerance=PRODUCTS.get(form, EXACT),
                tokens=(outliers(rng, tokens, columns),),
                weights=((form, normal(rng, rows, columns)),),
            )


def logits_cases() -> Iterator[Case]:
    """Every format; of Refined heads all panels, and only some: 1,100 tokens are 69 panels, of which 64 are refined."""
    for form in FORMATS:
        for tokens, vocabulary, columns in [(0, 40, 72), (1, 1, 72), (3, 250, 72), (1, 1100, 72), (5, 1101, 300)]:
            rng = generator(tokens, vocabulary)
            yield Case(
                op="logits",
                name=f"{form} {tokens} of {vocabulary}",
                tolerance=PRODUCTS.get(form, EXACT),
                tokens=(outliers(rng, tokens, columns),),
                weights=((form, normal(rng, vocabulary, columns)),),
            )
    equal = np.ones((1100, 64), np.float32)
    yield Case(op="logits", name="refined ties", tolerance=EXACT, tokens=(equal[:2],), weights=(("refined", equal),))


def embed_cases() -> Iterator[Case]:
    """Every format; tables whose last panel is not full."""
    for form in FORMATS:
        for rows, columns in [(1, 1), (17, 33), (40, 64), (50, 100)]:
            rng = generator(rows, columns)
            ids = rng.integers(0, rows, 9).astype(np.int32)
            name = f"{form} {rows} x {columns}"
            table = (form, normal(rng, rows, columns))
            yield Case(op="embed", name=name, tolerance=EXACT, tokens=(ids,), weights=(table,))


def row_cases() -> Iterator[Case]:
    """Ops on rows: all widths around the vectors."""
    for width in (*WIDTHS, 64, 65, 300):
        rng = generator(width)
        x_TD, wide, weight = normal(rng, 5, width) * 3, normal(rng, 5, 2 * width) * 4, normal(rng, width)
        yield Case(op="norm", name=f"{width}", tolerance=SQUARES, tokens=(x_TD,), weights=(("f32", weight),),
                   settings=(1e-5,))  # fmt: skip
        yield Case(op="add", name=f"{width}", tolerance=EXACT, tokens=(x_TD, normal(rng, 5, width)))
        yield Case(op="swiglu", name=f"{width}", tolerance=EXPONENTIAL, tokens=(wide,))
    none = np.empty((0, 64), np.float32)
    yield Case(op="norm", name="no rows", tolerance=EXACT, tokens=(none,), weights=(("f32", np.ones(64, np.float32)),),
               settings=(1e-5,))  # fmt: skip
    yield Case(op="add", name="no rows", tolerance=EXACT, tokens=(none, none))
    yield Case(op="swiglu", name="no rows", tolerance=EXACT, tokens=(none,))
    extreme = np.array([[-200, -90, -87.4, -1e-30, 0, 1e-30, 87.4, 90, 200, 3e38, -3e38, 1]], np.float32)
    yield Case(op="swiglu", name="extremes", tolerance=EXPONENTIAL,
               tokens=(np.concatenate([extreme, np.ones_like(extreme)], axis=1),))  # fmt: skip
    yield Case(op="norm", name="zeros", tolerance=SQUARES, tokens=(np.zeros((2, 9), np.float32),),
               weights=(("f32", np.ones(9, np.float32)),), settings=(1e-5,))  # fmt: skip


def head_cases() -> Iterator[Case]:
    """Ops on heads: sizes from 2 to 256, positions up to the ends of long contexts."""
    scaling = RopeScaling(factor=16.0, low_freq_factor=1.0, high_freq_factor=1.0, original_context=8192)
    for size in (2, 4, 12, 16, 20, 34, 64, 128, 256):
        rng = generator(size)
        x_THK = normal(rng, 6, 3, size) * 2
        positions = np.array([0, 1, 2, 8191, 8192, 1_000_000], np.int32)
        yield Case(op="unit_norm", name=f"{size}", tolerance=SQUARES, tokens=(x_THK,), settings=(1e-6,))
        for interleaved in (True, False):
            rope = Rope(head_size=size, theta=500000.0, interleaved=interleaved, scaling=scaling if size > 34 else None)
            name = f"{size} {'interleaved' if interleaved else 'halves'}"
            yield Case(op="rotate", name=name, tolerance=FUSED, tokens=(x_THK, positions), settings=(rope,))
        yield Case(op="angles", name=f"{size}", tolerance=FUSED, tokens=(positions,), settings=(rope,))
        setting = Temperature(floor=8192, scale=0.1)
        yield Case(op="temperature", name=f"{size}", tolerance=FUSED, tokens=(x_THK, positions), settings=(setting,))


def route_cases() -> Iterator[Case]:
    """Random logits, and equal ones: the lower index wins."""
    for experts, active in [(1, 1), (4, 1), (16, 1), (16, 3), (17, 17), (128, 1), (130, 2)]:
        rng = generator(experts, active)
        router = normal(rng, experts, 40)
        yield Case(op="route", name=f"{active} of {experts}", tolerance=SUMS, tokens=(normal(rng, 9, 40),),
                   weights=(("f32", router),), settings=(active,))  # fmt: skip
    yield Case(op="route", name="no rows", tolerance=EXACT, tokens=(np.empty((0, 40), np.float32),),
               weights=(("f32", router),), settings=(2,))  # fmt: skip
    equal = np.ones((6, 8), np.float32)
    yield Case(op="route", name="ties", tolerance=SUMS, tokens=(np.ones((2, 8), np.float32),),
               weights=(("f32", equal),), settings=(3,))  # fmt: skip


def experts_cases() -> Iterator[Case]:
    """Every format but Refined; top-1 and several; experts without a token, and one with all of them."""
    for form in FORMATS:
        if form == "refined":
            continue
        for tokens, active, experts, hidden, width in [
            (0, 1, 2, 8, 4), (1, 1, 4, 40, 24), (7, 1, 4, 33, 17), (40, 2, 5, 40, 24), (3, 3, 3, 64, 64),
            (33, 1, 1, 20, 36), (5, 2, 3, 520, 300),
        ]:  # fmt: skip
            rng = generator(tokens, active, experts, hidden)
            choices = np.array([rng.permutation(experts)[:active] for _ in range(tokens)], np.int32)
            gates = rng.uniform(0.1, 0.9, (tokens, active)).astype(np.float32)
            yield Case(
                op="experts",
                name=f"{form} {tokens} tokens, {active} of {experts}, {hidden} x {width}",
                tolerance=EXPERTS.get(form, HIDDEN_ROWS if hidden > 500 else HIDDEN_CODES),
                tokens=(
                    (outliers if hidden > 500 else mild_outliers)(rng, tokens, hidden),
                    choices.reshape(tokens, active),
                    gates,
                ),
                weights=((form, normal(rng, experts, 2 * width, hidden)), (form, normal(rng, experts, hidden, width))),
            )


def only(op: str, build: Callable[[], Iterator[Case]]) -> Callable[[], Iterator[Case]]:
    """The cases of one op out of a builder of several."""
    return lambda: (case for case in build() if case.op == op)


BUILDERS: dict[str, Callable[[], Iterator[Case]]] = {
    "linear": linear_cases,
    "logits": logits_cases,
    "embed": embed_cases,
    **{op: only(op, row_cases) for op in ("norm", "add", "swiglu")},
    **{op: only(op, head_cases) for op in ("unit_norm", "rotate", "angles", "temperature")},
    "route": route_cases,
    "experts": experts_cases,
}


def as_bf16(x: Floats) -> Floats:
    """Values that a bf16 cache keeps exactly, so that one expectation judges both kinds of cache."""
    return x.astype(BF16).astype(np.float32)
