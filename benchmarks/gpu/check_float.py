"""Float products and small kernels on a real device, against float64 products of torch there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu import check_sampling
from benchmarks.gpu.timing import Check, Point, errors_of, measured
from twofold.backends.gpu.kernels import early, float_few, float_many, group4_few, group4_many
from twofold.backends.gpu.kernels.combine import combine
from twofold.backends.gpu.kernels.float_few import few, few_routed
from twofold.backends.gpu.kernels.float_many import many, many_routed
from twofold.backends.gpu.kernels.fp8 import dense_many, has_fp8, quantize_fp8
from twofold.backends.gpu.kernels.norm import norm
from twofold.backends.gpu.kernels.route import route
from twofold.backends.gpu.kernels.swiglu import swiglu
from twofold.backends.gpu.weights import DenseWeight, Fp8Weight, Group4Weight, decode, to_device
from twofold.ops import cases
from twofold.ops.packed import Format
from twofold.ops.reference import ReferenceOps

FloatWeight = DenseWeight | Fp8Weight | Group4Weight
FLOATS: tuple[Format, ...] = ("f32", "bf16", "fp8", "group4")
HIDDEN, WIDTH, EXPERTS, QKV = 5120, 8192, 16, 7168
"""Llama 4 Scout."""
CACHE_BYTES = 300e6
"""Weights are rotated until they are much larger than any cache."""
FEW_TOLERANCE = {"f32": 1e-5, "bf16": 1e-5, "fp8": 1e-5, "group4": 3e-5}
MANY_TOLERANCE = {"f32": 1e-5, "bf16": 1e-4, "fp8": 5e-3, "group4": 6e-3}
"""float8 sums are kept with fewer bits by the matrix unit; four-bit weights are rounded to bfloat16 there."""


@dataclass(frozen=True)
class Ordered:
    """Rows by expert in blocks."""

    rows: Tensor
    expert_of_block: Tensor


def ordered(experts_R: Tensor, experts: int, block: int) -> Ordered:
    """The plain way to put rows in order."""
    chosen = experts_R.tolist()
    count = -(-len(chosen) // block) + experts
    rows = np.full((count, block), len(chosen), np.int32)
    expert_of_block = np.full(count, -1, np.int32)
    place = 0
    for expert in range(experts):
        mine = [row for row, choice in enumerate(chosen) if choice == expert]
        for start in range(0, len(mine), block):
            part = mine[start : start + block]
            rows[place, : len(part)] = part
            expert_of_block[place] = expert
            place += 1
    return Ordered(*(torch.from_numpy(item).to(experts_R.device) for item in (rows.reshape(-1), expert_of_block)))


def small(form: Format, device: torch.device, *shape: int) -> Any:
    """A weight of normal values, packed by the reference."""
    return to_device(cases.pack(ReferenceOps(), form, cases.normal(cases.generator(*shape), *shape)), device)


def large(form: Format, device: torch.device, *shape: int) -> Any:
    """A weight of random bits, made on the device."""
    *stack, rows, columns = shape
    if form == "fp8":
        values = torch.randn(shape, device=device, dtype=torch.bfloat16).to(torch.float8_e4m3fn)
        return Fp8Weight(values, torch.rand(*stack, rows, device=device) / 50, shape)
    if form == "group4":
        groups = (*stack, rows, columns // 32)
        codes = torch.randint(0, 256, (*groups, 16), device=device, dtype=torch.uint8)
        scales = (torch.rand(groups, device=device) / 50).half()
        return Group4Weight(codes, scales, torch.randint(6, 10, groups, device=device).half(), shape)
    dtype = torch.bfloat16 if form == "bf16" else torch.float32
    return DenseWeight(torch.randn(shape, device=device, dtype=dtype) / 50)


def activations(device: torch.device, tokens: int, columns: int) -> Tensor:
    """Activations as networks have them, such as bfloat16 holds exactly."""
    rng = cases.generator(tokens, columns)
    return torch.from_numpy(cases.mild_outliers(rng, tokens, columns)).to(device).bfloat16().float()


def error(got: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value expected."""
    if got.shape != expected.shape or not bool(got.isfinite().all()):
        return float("inf")
    return float((got.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-30))


# Correctness ------------------------------------------------------------------------------------------------------


def check(device: str | torch.device) -> list[str]:
    """What is wrong, one line each."""
    device = torch.device(device)
    checks = [*few_checks(device), *routed_checks(device), *many_checks(device), *small_checks(device)]
    found = errors_of(checks)
    failures = []
    for name, _, allowed in checks:
        result = found[name]
        if isinstance(result, str) or not result <= allowed:
            failures.append(f"{name}: {result} (allowed {allowed})")
    return failures + check_sampling.check(device)


def few_checks(device: torch.device) -> Iterator[Check]:
    """Products of few tokens: sizes with tails, Scout's, both kinds of activations, rows by themselves."""
    for form in FLOATS:
        for tokens, rows, columns in [(1, 5, 96), (3, 17, 300), (8, 33, 1088)]:
            weight, x_TD = small(form, device, rows, columns), activations(device, tokens, columns)
            yield f"few {form} {tokens}x{rows}x{columns}", partial(few_error, x_TD, weight), FEW_TOLERANCE[form]
        weight = large(form, device, QKV, HIDDEN)
        for tokens in (1, 4):
            x_TD = activations(device, tokens, HIDDEN)
            name = f"few {form} {tokens}x{QKV}x{HIDDEN}"
            yield name, partial(few_error, x_TD, weight), FEW_TOLERANCE[form]
            yield f"{name} of bf16", partial(few_error, x_TD.bfloat16(), weight), FEW_TOLERANCE[form]
        yield (
            f"few {form}: rows alone",
            partial(alone_error, activations(device, 4, HIDDEN), weight),
            0.0 if form != "f32" else 1e-6,
        )


def few_error(x_TD: Tensor, weight: FloatWeight) -> float:
    """Of a product with an addition."""
    add_TN = torch.randn(len(x_TD), weight.shape[0], device=x_TD.device)
    return error(few(x_TD, weight, add_TN), x_TD.double() @ decode(weight).double().T + add_TN)


def alone_error(x_TD: Tensor, weight: FloatWeight) -> float:
    """Of a row in a batch against the row alone."""
    together = few(x_TD, weight)
    return max(error(few(x_TD[row : row + 1], weight)[0], together[row]) for row in range(len(x_TD)))


def routed_checks(device: torch.device) -> Iterator[Check]:
    """Products by expert, few rows and many, small ones with tails and Scout's."""
    for form in FLOATS:
        for tokens, active, experts, rows, columns in [(3, 2, 5, 34, 300), (40, 2, 5, 48, 96), (17, 1, 4, 130, 520)]:
            weight, x_TD = small(form, device, experts, rows, columns), activations(device, tokens, columns)
            yield from both_routed(f"{form} {tokens}x{active} of {experts}, {rows}x{columns}", x_TD, active, weight)
        weight = large(form, device, 4, 1024, HIDDEN)
        yield from both_routed(f"{form} 300 of 4, 1024x{HIDDEN}", activations(device, 300, HIDDEN), 1, weight)


def both_routed(name: str, x_TD: Tensor, active: int, weight: FloatWeight) -> Iterator[Check]:
    """The same rows by both kernels, and in blocks of several sizes."""
    form = name.split()[0]
    rng = cases.generator(len(x_TD), active)
    chosen = np.array([rng.permutation(weight.shape[0])[:active] for _ in range(len(x_TD))], np.int32).reshape(-1)
    experts_R = torch.from_numpy(chosen).to(x_TD.device)
    gates_R = torch.rand(len(chosen), device=x_TD.device)
    yield f"few_routed {name}", partial(few_routed_error, x_TD, active, experts_R, gates_R, weight), FEW_TOLERANCE[form]
    for block in (16, 32, 64, 128) if len(x_TD) > 100 else (16, 128):
        measure = partial(many_routed_error, x_TD, active, experts_R, gates_R, weight, block)
        yield f"many_routed {name}, blocks of {block}", measure, MANY_TOLERANCE[form]


def expected_rows(x_TD: Tensor, active: int, experts_R: Tensor, gates_R: Tensor, weight: FloatWeight) -> Tensor:
    """float64, expert by expert."""
    x_RD = x_TD.double().repeat_interleave(active, 0) * gates_R.double()[:, None]
    y_RN = torch.empty(len(x_RD), weight.shape[1], device=x_TD.device, dtype=torch.float64)
    values = decode(weight)
    for expert in range(weight.shape[0]):
        rows = torch.nonzero(experts_R == expert).flatten()
        y_RN[rows] = x_RD[rows] @ values[expert].double().T
    return y_RN


def few_routed_error(x_TD: Tensor, active: int, experts_R: Tensor, gates_R: Tensor, weight: FloatWeight) -> float:
    """Of few_routed."""
    expected = expected_rows(x_TD, active, experts_R, gates_R, weight)
    return error(few_routed(x_TD, active, experts_R, gates_R, weight), expected)


def many_routed_error(
    x_TD: Tensor, active: int, experts_R: Tensor, gates_R: Tensor, weight: FloatWeight, block: int
) -> float:
    """Of many_routed; float8 is judged by the activations it quantises to."""
    seen_TD = x_TD
    if isinstance(weight, Fp8Weight) and has_fp8(x_TD.device):
        values, scales = quantize_fp8(x_TD)
        seen_TD = values.float() * scales
    expected = expected_rows(seen_TD, active, experts_R, gates_R, weight)
    order = ordered(experts_R, weight.shape[0], block)
    return error(many_routed(x_TD, active, order, gates_R, weight), expected)


def many_checks(device: torch.device) -> Iterator[Check]:
    """Products of many tokens with one matrix, by tiles and by the library."""
    for tokens in (20, 300):
        x_TD, weight = activations(device, tokens, HIDDEN), large("group4", device, 1024, HIDDEN)
        yield f"many group4 {tokens}", partial(many_error, x_TD, weight), MANY_TOLERANCE["group4"]
    if has_fp8(device):
        x_TD, weight = activations(device, 64, HIDDEN), large("fp8", device, 1024, HIDDEN)
        yield "dense_many fp8", partial(library_error, x_TD, weight), 2**-7


def many_error(x_TD: Tensor, weight: FloatWeight) -> float:
    """Of many."""
    return error(many(x_TD, weight), x_TD.double() @ decode(weight).double().T)


def library_error(x_TD: Tensor, weight: Fp8Weight) -> float:
    """Of dense_many."""
    values, scales = quantize_fp8(x_TD)
    return error(dense_many(x_TD, weight), (values.double() * scales.double()) @ decode(weight).double().T)


def small_checks(device: torch.device) -> Iterator[Check]:
    """Kernels that are no products."""
    generator = torch.Generator(device).manual_seed(1)
    for tokens, columns in [(1, HIDDEN), (5, 300)]:
        x_TD, add_TD = (torch.randn(tokens, columns, device=device, generator=generator) for _ in range(2))
        yield f"norm {tokens}x{columns}", partial(norm_error, x_TD, add_TD), 1e-6
        yield f"swiglu {tokens}x{columns}", partial(swiglu_error, torch.cat([x_TD * 4, add_TD], 1)), 2e-6
        yield f"combine {tokens}x{columns}", partial(combine_error, x_TD, add_TD), 0.0
        yield f"quantize_fp8 {tokens}x{columns}", partial(quantize_error, x_TD), 0.0
    for form in ("bf16", "fp8"):
        weights = large(form, device, 2048, HIDDEN), large(form, device, HIDDEN, 1024)
        yield f"chain {form}", partial(chain_error, device, *weights), 1e-5
    for experts, active in [(16, 1), (128, 1), (17, 3)]:
        router_ED = torch.randn(experts, HIDDEN, device=device, generator=generator) / 30
        for tokens in (1, 9):
            x_TD = torch.randn(tokens, HIDDEN, device=device, generator=generator)
            yield f"route {tokens}, {active} of {experts}", partial(route_error, x_TD, router_ED, active), 1e-5
            yield (
                f"route {tokens}, {active} of {experts}, bf16",
                partial(route_error, x_TD.bfloat16(), router_ED.bfloat16(), active),
                1e-5,
            )


def chain_error(device: torch.device, gate_up: Any, down: Any) -> float:
    """Of kernels started early against the same ones after each other, many times."""
    weight_D = torch.linspace(-2, 2, HIDDEN, device=device)
    worst = 0.0
    for _ in range(20):
        x_TD = torch.randn(1, HIDDEN, device=device)
        y_TD = z_TD = x_TD
        for _ in range(5):
            y_TD = chain(True, y_TD, weight_D, gate_up, down)
        torch.cuda.synchronize()
        for _ in range(5):
            z_TD = chain(False, z_TD, weight_D, gate_up, down)
            torch.cuda.synchronize()
        worst = max(worst, error(y_TD, z_TD))
    return worst


def norm_error(x_TD: Tensor, add_TD: Tensor) -> float:
    """Of both results of norm."""
    weight_D = torch.linspace(-2, 2, x_TD.shape[1], device=x_TD.device)
    total, got = norm(x_TD, weight_D, 1e-5, add_TD)
    exact = x_TD.double() + add_TD.double()
    expected = exact / (exact.square().mean(1, keepdim=True) + 1e-5).sqrt() * weight_D.double()
    halved = norm(x_TD.bfloat16(), weight_D, 1e-5, add_TD, torch.bfloat16)[1]
    near = norm(x_TD.bfloat16().float(), weight_D, 1e-5, add_TD)[1].bfloat16()
    return max(error(total, x_TD + add_TD), error(got, expected), error(halved, near))


def swiglu_error(gate_up: Tensor) -> float:
    """Of swiglu."""
    gate, up = gate_up.double().chunk(2, 1)
    return error(swiglu(gate_up), gate * torch.sigmoid(gate) * up)


def combine_error(x_TD: Tensor, add_TD: Tensor) -> float:
    """Of combine."""
    y_RN = torch.stack([x_TD, add_TD], 1).flatten(0, 1)
    return error(combine(y_RN, 2, x_TD, add_TD), x_TD + add_TD + x_TD + add_TD)


def quantize_error(x_TD: Tensor) -> float:
    """Of the bits of quantize_fp8, as torch rounds them."""
    values, scales = quantize_fp8(x_TD)
    most = x_TD.abs().amax(1, keepdim=True) / torch.full(
        (1, 1), 448.0, device=x_TD.device
    )  # a number would be inverted
    expected = (x_TD * (1 / most)).clamp(-448, 448).to(torch.float8_e4m3fn)
    return max(error(scales, most), error(values.float(), expected.float()))


def route_error(x_TD: Tensor, router_ED: Tensor, active: int) -> float:
    """Of route; another choice is an error of 1."""
    experts, gates = route(x_TD, router_ED, active)
    logits = x_TD.double() @ router_ED.double().T
    best, index = logits.sort(dim=1, descending=True, stable=True)
    if not torch.equal(experts.long(), index[:, :active]):
        return 1.0
    return error(gates, best[:, :active].sigmoid())


# Speed ------------------------------------------------------------------------------------------------------------


def measure(device: str | torch.device) -> Iterator[dict[str, Any]]:
    """Every kernel at Scout's shapes; the ones that matter most with all their configurations."""
    device = torch.device(device)
    for points in (chain_points, few_points, small_points, many_points, expert_points):
        yield from measured(points(device))
        if points is chain_points:
            yield from check_sampling.measure(device)


def bytes_of(weight: FloatWeight) -> float:
    """Bytes of a weight in memory."""
    tensors = [item for item in vars(weight).values() if isinstance(item, Tensor)]
    return float(sum(item.nbytes for item in tensors))


def few_points(device: torch.device) -> Iterator[Point]:
    """One token and more of them with the matrices of attention and of the shared expert."""
    for form in ("bf16", "fp8", "group4"):
        tilings = group4_few.CONFIGS if form == "group4" else float_few.CONFIGS
        for rows, columns in [(2 * WIDTH, HIDDEN), (HIDDEN, HIDDEN)]:
            first = large(form, device, rows, columns)
            copies = [first, *(large(form, device, rows, columns) for _ in range(int(CACHE_BYTES // bytes_of(first))))]
            sweeps = tilings if columns == HIDDEN and rows != QKV else ()
            for tiling in (None, *sweeps):
                yield few_point(form, copies, 1, torch.bfloat16, tiling)
            if rows == 2 * WIDTH:
                yield few_point(form, copies, 1, torch.float32, None)
                for tokens in (2, 4):
                    yield few_point(form, copies, tokens, torch.bfloat16, None)
            if rows in (2 * WIDTH, HIDDEN) and columns == HIDDEN:
                for tile in (group4_many.CONFIGS if form == "group4" else float_many.CONFIGS)[16]:
                    yield tile_point(form, copies, 8, tile)


def few_point(form: str, copies: list[Any], tokens: int, dtype: torch.dtype, tiling: Any) -> Point:
    """A product of few tokens."""
    rows, columns = copies[0].shape
    x_TD = activations(copies[0].scales.device if form != "bf16" else copies[0].values.device, tokens, columns).to(
        dtype
    )
    return Point(
        kernel=f"few {form}",
        shape=f"{tokens} x {rows} x {columns}, x {str(dtype).removeprefix('torch.')}",
        configuration=str(tiling or "chosen"),
        calls=[partial(few, x_TD, weight, tiling=tiling) for weight in copies],
        bytes=bytes_of(copies[0]),
    )


def tile_point(form: str, copies: list[Any], tokens: int, tiling: Any) -> Point:
    """A product of a few more tokens, by tiles."""
    rows, columns = copies[0].shape
    device = (copies[0].values if form == "bf16" else copies[0].scales).device
    x_TD = activations(device, tokens, columns).bfloat16()
    return Point(
        kernel=f"many {form}",
        shape=f"{tokens} x {rows} x {columns}",
        configuration=str(tiling),
        calls=[partial(many, x_TD, weight, tiling=tiling) for weight in copies],
        bytes=bytes_of(copies[0]),
    )


def expert_points(device: torch.device) -> Iterator[Point]:
    """One token with its expert, and eight."""
    for form in ("bf16", "fp8", "group4"):
        weight = large(form, device, EXPERTS, 2 * WIDTH, HIDDEN)
        for tokens in (1, 8):
            x_TD = activations(device, tokens, HIDDEN).bfloat16()
            choices = [torch.arange(tokens, device=device, dtype=torch.int32) + 8 * (i % 2) for i in range(4)]
            if tokens == 1:
                choices = [torch.full((1,), i, device=device, dtype=torch.int32) for i in range(EXPERTS)]
            gates = torch.rand(tokens, device=device)
            yield Point(
                kernel=f"few_routed {form}",
                shape=f"{tokens} x {2 * WIDTH} x {HIDDEN}",
                configuration="chosen",
                calls=[partial(few_routed, x_TD, 1, choice, gates, weight) for choice in choices],
                bytes=bytes_of(weight) / EXPERTS * tokens,
            )


def uneven(form: str, configs: dict[int, Any]) -> list[tuple[int, int, Any]]:
    """Tokens, rows of a block and tilings of a prefill that is not much more than reading the experts."""
    return [] if form == "group4" else [(2048, 64, configs[64]), (2048, 128, configs[128][:1])]


def many_points(device: torch.device) -> Iterator[Point]:
    """Prefill and large batches through the experts."""
    for form in ("bf16", "fp8", "group4"):
        weight = large(form, device, EXPERTS, 2 * WIDTH, HIDDEN)
        configs: dict[int, Any] = group4_many.CONFIGS if form == "group4" else float_many.CONFIGS
        for tokens, block, tilings in [
            (4096, 128, configs[128][:2]),
            (64, 16, configs[16][:1]),
            *uneven(form, configs),
        ]:
            x_TD = torch.randn(tokens, HIDDEN, device=device, dtype=torch.bfloat16)
            experts_R = (torch.arange(tokens, device=device) % EXPERTS).int()
            if tokens == 2048:  # as a router leaves them: some experts have more than others
                experts_R = torch.randint(0, EXPERTS, (tokens,), device=device, dtype=torch.int32)
            order, gates = ordered(experts_R, EXPERTS, block), torch.rand(tokens, device=device)
            for tiling in tilings:
                call = partial(many_routed, x_TD, 1, order, gates, weight, torch.bfloat16, tiling)
                yield Point(
                    kernel=f"many_routed {form}",
                    shape=f"{tokens} x {2 * WIDTH} x {HIDDEN}, blocks of {block}",
                    configuration=str(tiling),
                    calls=[call, call],
                    bytes=bytes_of(weight),
                    flops=2.0 * tokens * 2 * WIDTH * HIDDEN if tokens >= 2048 else 0.0,
                )
    x_TD, fp8 = torch.randn(4096, HIDDEN, device=device, dtype=torch.bfloat16), large("fp8", device, 2 * WIDTH, HIDDEN)
    flops = 2.0 * 4096 * 2 * WIDTH * HIDDEN
    yield Point("dense_many fp8", "4096", "library", [partial(dense_many, x_TD, fp8)] * 2, flops=flops)
    group4 = large("group4", device, 2 * WIDTH, HIDDEN)
    wide = [partial(many, x_TD, group4, torch.bfloat16)] * 2
    yield Point("many group4", "4096", "widened, then the library", wide, flops=flops)
    bf16 = large("bf16", device, 2 * WIDTH, HIDDEN).values
    yield Point("torch bf16", "4096", "library", [partial(torch.matmul, x_TD, bf16.T)] * 2, flops=flops)


def chain_points(device: torch.device) -> Iterator[Point]:
    """A shared expert with its norm at one token, kernels started early and not."""
    for form in ("bf16", "fp8"):
        layers = [
            (large(form, device, 2 * WIDTH, HIDDEN), large(form, device, HIDDEN, WIDTH))
            for _ in range(2 if form == "bf16" else 4)
        ]
        x_TD, weight_D = torch.randn(1, HIDDEN, device=device), torch.randn(HIDDEN, device=device)
        for is_early in (True, False):
            yield Point(
                kernel=f"norm, few, swiglu, few {form}",
                shape=f"1 x {HIDDEN} x {WIDTH}",
                configuration="early" if is_early else "one after the other",
                calls=[partial(chain, is_early, x_TD, weight_D, *pair) for pair in layers],
                bytes=sum(bytes_of(weight) for weight in layers[0]),
            )


def chain(is_early: bool, x_TD: Tensor, weight_D: Tensor, gate_up: Any, down: Any) -> Tensor:
    """norm, product, swiglu, product."""
    with nullcontext() if is_early else early.paused():
        hidden = swiglu(few(norm(x_TD, weight_D, 1e-5)[1], gate_up))
        return few(hidden, down, x_TD)


def small_points(device: torch.device) -> Iterator[Point]:
    """Kernels that are no products, for one token and for a prefill."""
    for tokens in (1, 2048):
        x_TD = torch.randn(tokens, HIDDEN, device=device)
        weight_D, wide = torch.randn(HIDDEN, device=device), torch.randn(tokens, 2 * WIDTH, device=device)
        router = torch.randn(EXPERTS, HIDDEN, device=device, dtype=torch.bfloat16)
        many_routers = torch.randn(128, HIDDEN, device=device, dtype=torch.bfloat16)
        named: dict[str, Callable[[], object]] = {
            **{
                f"norm, {warps} warps": partial(norm, x_TD, weight_D, 1e-5, x_TD, torch.bfloat16, warps)
                for warps in (8, 16, 32)
            },
            "swiglu": partial(swiglu, wide, torch.bfloat16),
            "combine": partial(combine, x_TD, 1, x_TD, x_TD),
            "route 1 of 16": partial(route, x_TD, router, 1),
            "route 1 of 128": partial(route, x_TD, many_routers, 1),
            "quantize_fp8": partial(quantize_fp8, x_TD),
        }
        for name, call in named.items():
            yield Point(name, f"{tokens} x {HIDDEN}", "chosen", [call] * 8, bytes=float(x_TD.nbytes))
