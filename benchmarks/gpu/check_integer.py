"""The integer kernels on a device: the same bits as the reference, and how fast they read or multiply.

`check` runs small cases against ops.reference and large ones against float64 products, which hold every integer sum
exactly; `measure` times launches in a graph over more weights than the second-level cache holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu import codes as plain
from twofold.backends.gpu.codes import Codes
from twofold.backends.gpu.kernels import integer_few, integer_many, integer_several
from twofold.backends.gpu.kernels.integer_few import Cut, few, few_routed
from twofold.backends.gpu.kernels.integer_many import Tile, many, many_routed
from twofold.backends.gpu.kernels.integer_several import Share, several, several_routed
from twofold.backends.gpu.kernels.integer_several import has_kernel as has_several
from twofold.backends.gpu.kernels.order import order
from twofold.backends.gpu.kernels.quantize import norm_quantize, quantize, swiglu_quantize
from twofold.backends.gpu.kernels.refine import refine
from twofold.backends.gpu.kernels.target import quotient, target
from twofold.backends.gpu.kernels.unpack import unpack
from twofold.backends.gpu.weights import (
    Int4Weight,
    Int8Weight,
    IntegerWeight,
    RefinedWeight,
    integer_rows,
    part,
    to_device,
)
from twofold.ops import cases
from twofold.ops.reference import ReferenceOps

SCOUT = ((7168, 5120), (5120, 5120), (16384, 5120), (5120, 8192))
ONE_BITS = 0x3F800000
"""1.0 as an integer."""
ROTATED_BYTES = 300 << 20
"""Weights read between two readings of the same: six times the L2 cache of an H100."""


def random_weight(form: str, *shape: int, device: torch.device) -> IntegerWeight:
    """Random codes; rows are a multiple of 16 and columns of 64."""
    *stack, rows, columns = shape
    scales = torch.rand(*stack, rows, device=device) * 1e-3 + 1e-4

    def some(*sizes: int) -> Tensor:
        return torch.randint(0, 256, (*stack, rows, *sizes), dtype=torch.uint8, device=device)

    if form == "int8":
        return Int8Weight(some(columns).view(torch.int8).clamp(min=-127), scales, shape)
    return Int4Weight(some(columns // 32, 16), some(columns // 64), scales, shape)


def random_codes(tokens: int, columns: int, device: torch.device, wide: bool = False) -> Codes:
    """Codes of normal activations, every third token wide if asked."""
    x_TD = torch.randn(tokens, columns, device=device)
    if wide:
        x_TD[::3, columns // 3] *= 300
    return quantize(x_TD)


def expected(codes: Codes, weight: IntegerWeight, gates_T: Tensor | None = None) -> Tensor:
    """The product by float64 sums."""
    integers = integer_rows(weight).double()
    scales, rests = (codes.scales_T, codes.scales_T * torch.tensor(1 / 254, dtype=torch.float32))
    if gates_T is not None:
        scales, rests = scales * gates_T, rests * gates_T
    first, second = (codes.codes_TCW[:, row].double() @ integers.T for row in (0, 1))
    y_TN = first.float() * (scales[:, None] * weight.scales[None])
    more_TN = second.float() * (rests[:, None] * weight.scales[None])
    return torch.where(codes.wide_T[:, None] != 0, y_TN + more_TN, y_TN)[:, : weight.shape[-2]]


def check(device: str | torch.device) -> list[str]:
    """Names of what differs."""
    torch.manual_seed(0)
    device = torch.device(device)
    parts = (check_codes, check_quotients, check_reference, check_large, check_routed, check_refined)
    return [name for part_of_it in parts for name in part_of_it(device)]


def differing(results: dict[str, tuple[Tensor, Tensor]]) -> Iterator[str]:
    """Names of unequal pairs, with the largest difference."""
    for name, (got, want) in results.items():
        if got.shape != want.shape or not torch.equal(got, want.to(got.device)):
            far = (got.double() - want.to(got.device).double()).abs().max() if got.shape == want.shape else math.nan
            yield f"{name}: off by up to {float(far):.3g}"


def compared(name: str, got: Codes, want: Codes) -> dict[str, tuple[Tensor, Tensor]]:
    """All that is read of codes: second rows of wide tokens only."""
    pairs = {"codes": (got.codes_TCW[:, 0], want.codes_TCW[:, 0])}
    pairs["rests"] = (got.codes_TCW[got.wide_T != 0, 1], want.codes_TCW[want.wide_T != 0, 1])
    pairs |= {field: (getattr(got, field), getattr(want, field)) for field in ("scales_T", "wide_T")}
    return {f"{name} {field}": pair for field, pair in pairs.items()}


def check_codes(device: torch.device) -> Iterator[str]:
    """Codes against plain torch; the norm's and the non-linearity's own rounding is allowed for."""
    results: dict[str, tuple[Tensor, Tensor]] = {}
    for tokens, columns in ((1, 5120), (5, 8192), (9, 300), (300, 2150)):
        x_TD = torch.from_numpy(cases.outliers(cases.generator(tokens, columns), tokens, columns)).to(device)
        x2_TD = torch.randn(tokens, 2 * columns, device=device) * 2
        want, got = plain.quantize(x_TD.cpu()), quantize(x_TD)
        name = f"codes {tokens} x {columns}"
        results |= compared(name, got, want)
        got_sum, y_TD, got = norm_quantize(x_TD, x2_TD[0, :columns].contiguous(), 1e-5, x_TD)
        results[f"sum {name}"] = (got_sum, x_TD + x_TD)
        results |= compared(f"norm {name}", got, plain.quantize(y_TD.cpu()))
        unit_TD = (x_TD + x_TD).double()
        want_TD = unit_TD / (unit_TD.square().mean(-1, keepdim=True) + 1e-5).sqrt() * x2_TD[0, :columns].double()
        if float((y_TD.double() - want_TD).abs().max() / want_TD.abs().max()) > 1e-6:
            yield f"norm {name} is off"
        gate, up = x2_TD.double().chunk(2, dim=-1)
        got = swiglu_quantize(x2_TD)
        far = got.codes_TCW[:, 0, :columns].double() * got.scales_T[:, None] - gate * gate.sigmoid() * up
        if float((far.abs().amax(-1) / got.scales_T).max()) > 0.51:
            yield f"swiglu {name} is off"
    yield from differing(results)


def check_quotients(device: torch.device) -> Iterator[str]:
    """The quotient of the non-linearity for every float32 from 0 to 1, by integers one after the other."""
    if target() != "cuda":
        return
    different = torch.zeros(1, dtype=torch.int32, device=device)
    for first in range(0, ONE_BITS + 1, 1 << 28):
        quotient_kernel[(1 << 18,)](first, different, ONE=ONE_BITS, BLOCK=1024, enable_fp_fusion=False)
    if int(different):
        yield f"quotients: {int(different)} differ from div.rn"


@triton.jit
def quotient_kernel(first, different, ONE: tl.constexpr, BLOCK: tl.constexpr):
    """Counts the float32 with bits first.. whose quotients by 1 + themselves differ, and those of 1."""
    bits_B = first + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    small_B = tl.minimum(bits_B, ONE).to(tl.float32, bitcast=True)
    whole_B = 1.0 + small_B
    one_B = tl.full((BLOCK,), 1.0, tl.float32)
    wrong_B = quotient(one_B, whole_B, "cuda") != tl.div_rn(one_B, whole_B)
    wrong_B = wrong_B | (quotient(small_B, whole_B, "cuda") != tl.div_rn(small_B, whole_B))
    count = tl.sum(wrong_B.to(tl.int32), axis=0)
    if count > 0:
        tl.atomic_add(different, count)


def check_reference(device: torch.device) -> Iterator[str]:
    """Small cases with tails and wide tokens against ops.reference."""
    reference, results = ReferenceOps(), {}
    for form in ("int4", "int8"):
        for tokens, rows, columns in (
            (1, 48, 96),
            (8, 33, 96),
            (3, 80, 2150),
            (1, 15, 1088),
            (33, 80, 2150),
            (50, 17, 96),
        ):
            rng = cases.generator(tokens, rows, columns)
            x_TD = cases.outliers(rng, tokens, columns)
            packed = cases.pack(reference, form, cases.normal(rng, rows, columns))  # type: ignore[arg-type]
            weight, codes = to_device(packed, device), quantize(torch.from_numpy(x_TD).to(device))
            want = torch.from_numpy(reference.linear(x_TD, packed))
            name = f"{form} {tokens} x {rows} x {columns}"
            if tokens <= integer_few.MOST_TOKENS:
                results[f"few {name}"] = (few(codes, weight), want)
            if has_several(device) and tokens <= integer_several.MOST_TOKENS:
                results[f"several {name}"] = (several(codes, weight), want)
            results[f"many {name}"] = (many(codes, weight), want)
    yield from differing(results)


def check_large(device: torch.device) -> Iterator[str]:
    """Scout's sizes, the residual, and four bits unpacked."""
    results = {}
    for form, rows, columns in (("int4", 7168, 5120), ("int4", 5120, 8192), ("int8", 5120, 5120)):
        weight = random_weight(form, rows, columns, device=device)
        if isinstance(weight, Int4Weight):
            results[f"unpack {rows}"] = (unpack(weight), integer_rows(weight))
        for tokens in (1, 2, 8, 16, 64, 300):
            codes, add_TN = random_codes(tokens, columns, device, wide=True), torch.randn(tokens, rows, device=device)
            want, name = expected(codes, weight), f"{form} {tokens} x {rows} x {columns}"
            if tokens <= integer_few.MOST_TOKENS:
                results[f"few {name}"] = (few(codes, weight), want)
                results[f"few + {name}"] = (few(codes, weight, add_TN), want + add_TN)
            if has_several(device) and tokens <= integer_several.MOST_TOKENS:
                results[f"several + {name}"] = (several(codes, weight, add_TN), want + add_TN)
            results[f"many {name}"] = (many(codes, weight), want)
    yield from differing(results)


def check_routed(device: torch.device) -> Iterator[str]:
    """Rows of experts; the stack has more than 2^31 codes, and an expert that gets nothing."""
    results = {}
    for form in ("int4", "int8"):
        weight = random_weight(form, 16, 16384, 5120 if form == "int4" else 8192, device=device)
        for tokens, active in ((1, 1), (3, 2), (200, 1)):
            codes = random_codes(tokens, weight.shape[-1], device, wide=True)
            experts_R = torch.randint(1, 16, (tokens * active,), dtype=torch.int32, device=device)
            experts_R[-1] = 15
            gates_R = torch.rand(tokens * active, device=device)
            rows = codes.rows(torch.arange(tokens * active, device=device) // active)
            want = torch.empty(tokens * active, 16384, device=device)
            for expert in experts_R.unique().tolist():
                own = (experts_R == expert).nonzero()[:, 0]
                matrix = part(weight, expert)
                assert isinstance(matrix, Int4Weight | Int8Weight)
                want[own] = expected(rows.rows(own), matrix, gates_R[own])
            name = f"{form} {tokens} of {active}"
            if tokens * active <= integer_few.MOST_TOKENS:
                results[f"few routed {name}"] = (few_routed(codes, active, experts_R, gates_R, weight), want)
            if has_several(device):
                ordered = order(experts_R, 16, integer_several.TOKENS_AT_ONCE)
                results[f"several routed {name}"] = (several_routed(codes, active, ordered, gates_R, weight), want)
            block = integer_many.block_of(tokens * active, 16)
            ordered = order(experts_R, 16, block)
            results[f"many routed {name}"] = (many_routed(codes, active, ordered, gates_R, weight), want)
    yield from differing(results)


def check_refined(device: torch.device) -> Iterator[str]:
    """Refined heads against the reference."""
    reference, results = ReferenceOps(), {}
    for case in cases.cases("logits"):
        if case.weights[0][0] == "refined" and len(case.tokens[0]):
            weight = to_device(cases.pack(reference, *case.weights[0]), device)
            assert isinstance(weight, RefinedWeight)
            codes = quantize(torch.from_numpy(case.tokens[0]).to(device))
            y_RV = few(codes, weight.coarse)
            refine(codes, weight, y_RV)
            results[case.name] = (y_RV, torch.from_numpy(cases.run(case, reference)[0]))
    yield from differing(results)


def microseconds(launch: Callable[[int], Any], copies: int, launches: int = 24, replays: int = 6) -> float:
    """Time of one launch in a graph of many; `launch(i)` works on copy i % copies of what it reads."""
    launch(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(launches):
            launch(index % copies)
    graph.replay()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(replays):
        graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1000 / (launches * replays)


def weight_bytes(weight: IntegerWeight) -> int:
    """Bytes of a weight's codes, multipliers and scales."""
    fields = (weight.codes, weight.scales, *((weight.multipliers,) if isinstance(weight, Int4Weight) else ()))
    return sum(field.nbytes for field in fields)


def measure(device: str | torch.device) -> Iterator[dict[str, Any]]:
    """Times of every kernel as they are found, the most wanted first; what shares them compiles side by side before."""
    torch.manual_seed(0)
    device = torch.device(device)
    for jobs_of in (one_token_jobs, routed_jobs, few_jobs, many_jobs, prefill_jobs, small_jobs):
        jobs = list(jobs_of(device))
        kinds = {str({**facts, "shape": str(facts.get("shape")).split("x")[-1]}): launch for facts, launch, *_ in jobs}
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(compiled, kinds.values()))
        yield from (timed(*job) for job in jobs)


def timed(
    facts: dict[str, Any], launch: Callable[[int], Any], copies: int, size: int, operations: float
) -> dict[str, Any]:
    """The facts with the time and the rate; a tile that does not fit says so."""
    try:
        time_us = microseconds(launch, copies)
    except Exception as error:
        return {**facts, "failed": repr(error)[:200]}
    rate = {"GB/s": round(size / time_us / 1e3)} if size else {}
    rate |= {"TOP/s": round(operations / time_us / 1e6, 1)} if operations > 1e9 else {}
    return {**facts, "us": round(time_us, 2), **rate}


def compiled(launch: Callable[[int], Any]) -> None:
    """Compile by launching once; what fails fails again when it is measured."""
    try:
        launch(0)
    except Exception:
        return


Job = tuple[dict[str, Any], Callable[[int], Any], int, int, float]


def matrices(form: str, rows: int, columns: int, device: torch.device) -> list[IntegerWeight]:
    """So many that they are not in the cache when it is their turn again."""
    size = rows * columns // (2 if form == "int4" else 1)
    return [random_weight(form, rows, columns, device=device) for _ in range(max(2, -(-ROTATED_BYTES // size)))]


def few_job(form: str, tokens: int, rows: int, weights: list[IntegerWeight], cut: Cut | None = None) -> Job:
    """A product of few tokens."""
    columns = weights[0].shape[-1]
    codes = random_codes(tokens, columns, weights[0].scales.device)
    facts = {"kernel": f"few {form}", "tokens": tokens, "shape": f"{rows}x{columns}", "cut": cut and astuple(cut)}
    operations = 2.0 * tokens * rows * columns
    return facts, lambda i: few(codes, weights[i], None, cut), len(weights), weight_bytes(weights[0]), operations


def several_job(form: str, tokens: int, rows: int, weights: list[IntegerWeight], share: Share | None) -> Job:
    """A product of several tokens."""
    columns = weights[0].shape[-1]
    codes = random_codes(tokens, columns, weights[0].scales.device)
    facts = {
        "kernel": f"several {form}",
        "tokens": tokens,
        "shape": f"{rows}x{columns}",
        "cut": share and astuple(share),
    }
    launch = lambda i: several(codes, weights[i], None, share)  # noqa: E731
    return facts, launch, len(weights), weight_bytes(weights[0]), 2.0 * tokens * rows * columns


def one_token_jobs(device: torch.device) -> Iterator[Job]:
    """One token, all cuts."""
    for rows, columns in SCOUT:
        weights = matrices("int4", rows, columns, device)
        for cut in integer_few.CONFIGS if (rows, columns) != (7168, 5120) else integer_few.CONFIGS[:2]:
            yield few_job("int4", 1, rows, weights, cut)


def few_jobs(device: torch.device) -> Iterator[Job]:
    """Two to 32 tokens, and eight-bit weights."""
    for rows, columns in ((16384, 5120), (5120, 5120), (5120, 8192)):
        weights = matrices("int4", rows, columns, device)
        for tokens in (2, 4, 8):
            yield few_job("int4", tokens, rows, weights)
        for tokens in (4, 8, 16, 32) if has_several(device) else ():
            for share in (None, *integer_several.CONFIGS) if tokens in (8, 16) else (None,):
                yield several_job("int4", tokens, rows, weights, share)
        weights = matrices("int8", rows, columns, device)
        yield few_job("int8", 1, rows, weights)
        for tokens in (8, 16) if has_several(device) else ():
            yield several_job("int8", tokens, rows, weights, None)


def routed_jobs(device: torch.device) -> Iterator[Job]:
    """One token's expert out of sixteen, and the experts of several."""
    for rows, columns in ((16384, 5120), (5120, 8192)):
        stack = random_weight("int4", 16, rows, columns, device=device)
        codes, gates_R = random_codes(1, columns, device), torch.rand(1, device=device)
        experts = [torch.tensor([i], dtype=torch.int32, device=device) for i in range(16)]
        facts = {"kernel": "few routed int4", "tokens": 1, "shape": f"16x{rows}x{columns}"}
        launch = lambda i, c=codes, w=stack, e=experts, g=gates_R: few_routed(c, 1, e[i], g, w)  # noqa: E731
        yield facts, launch, 16, weight_bytes(stack) // 16, 2.0 * rows * columns
        yield from grouped_jobs(stack)


def grouped_jobs(stack: IntegerWeight) -> Iterator[Job]:
    """Rows in the order of their experts, from one row for every second expert to 64 for each."""
    device, (experts, rows, columns) = stack.scales.device, stack.shape
    for count in (8, 64, 256, 1024):
        experts_R = torch.randint(0, experts, (count,), dtype=torch.int32, device=device)
        codes, gates_R = random_codes(count, columns, device), torch.rand(count, device=device)
        size = weight_bytes(stack) * len(experts_R.unique()) // experts
        facts = {"tokens": count, "shape": f"{experts}x{rows}x{columns}"}
        for block in (8, 16, 32, 64, 128):
            ordered = order(experts_R, experts, block)
            if block <= 16 and count <= 256 and has_several(device):
                launch = lambda i, c=codes, o=ordered, g=gates_R: several_routed(c, 1, o, g, stack)  # noqa: E731
                yield {"kernel": "several routed", "block": block, **facts}, launch, 1, size, 0.0
            if block >= 16:
                launch = lambda i, c=codes, o=ordered, g=gates_R: many_routed(c, 1, o, g, stack)  # noqa: E731
                operations = 2.0 * count * rows * columns
                yield {"kernel": "many routed", "block": block, **facts}, launch, 1, 0, operations


def small_jobs(device: torch.device) -> Iterator[Job]:
    """What lies between the products."""
    for tokens in (1, 64, 2048):
        x_TD, gate_up = torch.randn(tokens, 5120, device=device), torch.randn(tokens, 16384, device=device)
        weight_D = torch.rand(5120, device=device)
        experts_R = torch.randint(0, 16, (tokens,), dtype=torch.int32, device=device)
        facts = {"tokens": tokens}
        launch = lambda i, x=x_TD, w=weight_D: norm_quantize(x, w, 1e-5, x)  # noqa: E731
        yield {"kernel": "norm_quantize", **facts}, launch, 1, tokens * 5120 * 18, 0.0
        launch = lambda i, x=gate_up: swiglu_quantize(x)  # noqa: E731
        yield {"kernel": "swiglu_quantize", **facts}, launch, 1, tokens * 8192 * 10, 0.0
        launch = lambda i, x=x_TD: quantize(x)  # noqa: E731
        yield {"kernel": "quantize", **facts}, launch, 1, tokens * 5120 * 6, 0.0
        launch = lambda i, e=experts_R: order(e, 16, 64)  # noqa: E731
        yield {"kernel": "order", **facts}, launch, 1, 0, 0.0


def many_job(form: str, tokens: int, rows: int, weights: list[IntegerWeight], tile: Tile | None) -> Job:
    """A product of many tokens."""
    columns = weights[0].shape[-1]
    codes = random_codes(tokens, columns, weights[0].scales.device)
    facts = {"kernel": f"many {form}", "tokens": tokens, "shape": f"{rows}x{columns}", "cut": tile and astuple(tile)}
    size = weight_bytes(weights[0]) if tokens < 128 else 0
    return facts, lambda i: many(codes, weights[i], tile), len(weights), size, 2.0 * tokens * rows * columns


def many_jobs(device: torch.device) -> Iterator[Job]:
    """Tiles of four-bit weights for 8 to 64 tokens."""
    for rows, columns in ((16384, 5120), (5120, 5120)):
        weights = matrices("int4", rows, columns, device)
        for tokens in (8, 16, 64):
            for tile in integer_many.configs(tokens, rows):
                yield many_job("int4", tokens, rows, weights, tile)


def prefill_jobs(device: torch.device) -> Iterator[Job]:
    """Tiles for 2,048 tokens, and the library's product with and without unpacking."""
    rows, columns = 16384, 5120
    weights, eight = matrices("int4", rows, columns, device)[:2], matrices("int8", rows, columns, device)[:2]
    for tile in integer_many.CONFIGS_INT8:
        yield many_job("int8", 2048, rows, eight, tile)
    for tile in integer_many.CONFIGS[128]:
        yield many_job("int4", 2048, rows, weights, tile)
    x_TW = random_codes(2048, columns, device).codes_TCW[:, 0].contiguous()
    operations, facts = 2.0 * 2048 * rows * columns, {"tokens": 2048, "shape": f"{rows}x{columns}"}
    yield {"kernel": "_int_mm", **facts}, lambda i: torch._int_mm(x_TW, eight[i].codes.T), 2, 0, operations
    four = [weight for weight in weights if isinstance(weight, Int4Weight)]
    yield {"kernel": "unpack", **facts}, lambda i: unpack(four[i]), 2, 3 * weight_bytes(four[0]), 0.0
