"""The cpu backend beyond single results: threads, contracts of the extension, memory."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from twofold.backends.cpu import machine
from twofold.backends.cpu import ops as cpu
from twofold.backends.cpu.ops import CpuOps, load_native
from twofold.errors import NativeUnavailable
from twofold.ops import packed
from twofold.ops.activations import quantize_activations
from twofold.ops.attention_cases import ATTENTION_CASES, attend
from twofold.ops.cases import BUILDERS, FORMATS, ROUNDS_TO_BF16, cases, error, generator, normal, outliers, pack, run
from twofold.ops.reference import ReferenceOps
from twofold.ops.types import CacheShape

ISAS = machine.testable_isas()


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    module = load_native()
    before = module.threads()
    yield
    module.set_threads(before)


@pytest.mark.parametrize("threads", [2, 3, 7, 64])
def test_results_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    module, ops = load_native(), CpuOps()
    module.set_threads(1)
    wide = pack(ops, "int4", normal(generator(1), 500, 300))
    tall = pack(ops, "bf16", normal(generator(2), 500, 300))
    x_TD = normal(generator(3), 50, 300)
    last = [list(cases(op))[-1] for op in BUILDERS]

    def everything() -> list[Any]:
        single = [result for case in last for result in run(case, ops)]
        attention = [attend(case, ops, 32) for case in ATTENTION_CASES]
        return [ops.linear(x_TD, wide), ops.linear(x_TD, tall), *single, *attention]

    alone = everything()
    module.set_threads(threads)
    for one, many in zip(alone, everything(), strict=True):
        assert np.array_equal(one, many)


def test_large_inputs_are_shared_out_without_changing_anything() -> None:
    module, ops = load_native(), CpuOps()
    x = normal(generator(5), 400, 1024)
    weight = packed.Dense(np.ones(1024, np.float32))
    results = []
    for threads in (1, 2, 5):
        module.set_threads(threads)
        heads = x.reshape(400, 8, 128)
        results.append([ops.norm(x, weight, 1e-5), ops.swiglu(x.copy()), ops.add(x, x), ops.unit_norm(heads, 1e-5)])
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("isa", ISAS)
def test_tokens_are_shared_out_where_a_weight_has_few_rows(isa: str) -> None:
    load_native().set_threads(3)
    ops, x_TD, weight_ND = CpuOps(isa=isa), outliers(generator(1), 150, 96), normal(generator(2), 20, 96)
    for form in FORMATS:
        weight = pack(ops, form, weight_ND)
        together = ops.linear(x_TD, weight)
        reference = ReferenceOps(rounds_to_bf16=f"cpu-{isa}" in ROUNDS_TO_BF16)
        assert error((together,), (reference.linear(x_TD, pack(reference, form, weight_ND)),)) <= 2e-5, form
        alone = [ops.linear(x_TD[row : row + 1], weight)[0] for row in range(len(x_TD))]
        assert np.array_equal(together, alone), form
    router = pack(ops, "f32", weight_ND)
    experts_TA, gates_TA = ops.route(x_TD, router, 2)
    for row in range(len(x_TD)):
        alone_A, own_gates_A = ops.route(x_TD[row : row + 1], router, 2)
        assert np.array_equal(experts_TA[row], alone_A[0])
        assert np.array_equal(gates_TA[row], own_gates_A[0])


def test_two_python_threads_may_call_at_once() -> None:
    load_native().set_threads(2)
    ops = CpuOps()
    weight = pack(ops, "int8", normal(generator(1), 640, 512))
    inputs = [normal(generator(i), 9, 512) for i in range(40)]
    expected = [ops.linear(x, weight) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(pool.map(lambda x: ops.linear(x, weight), inputs), expected, strict=True):
            assert np.array_equal(got, wanted)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_pool_of_its_own() -> None:
    load_native().set_threads(2)
    ops = CpuOps()
    weight = pack(ops, "int8", normal(generator(1), 640, 512))
    x_TD = normal(generator(2), 9, 512)
    expected = ops.linear(x_TD, weight)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(ops.linear(x_TD, weight), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(ops.linear(x_TD, weight), expected)


@pytest.mark.parametrize("isa", ISAS)
def test_activation_codes_are_the_bits_of_the_reference(isa: str) -> None:
    native = load_native().Native(isa)
    for columns in (*range(1, 70), 300, 1000):
        x_TD = outliers(generator(columns), 5, columns)
        x_TD[0, 0] = 0.5 * np.abs(x_TD[0]).max()  # half-way between two codes, more often than not
        x_TD[1::2, columns // 2] *= 500
        codes, scales, places = np.empty((10, columns), np.int8), np.empty(10, np.float32), np.empty(6, np.int64)
        rows = native.quantize(x_TD, codes, scales, places)
        wanted = quantize_activations(x_TD)
        assert rows == len(wanted.codes_RD) == places[-1]
        assert rows > 5 or columns < 16
        assert np.array_equal(places[:-1], wanted.firsts_T)
        assert np.array_equal(codes[:rows], wanted.codes_RD)
        assert np.array_equal(scales[:rows], wanted.scales_R)


@pytest.mark.parametrize("isa", ISAS)
def test_many_tokens_of_a_very_wide_row_pass_in_blocks(isa: str) -> None:
    # 8,200 columns of float8: 64 tokens are more than the caches are taken to hold
    ops = CpuOps(isa=isa)
    x_TD, weight_ND = normal(generator(1), 67, 8200), normal(generator(2), 19, 8200)
    weight = pack(ops, "fp8", weight_ND)
    together = ops.linear(x_TD, weight)
    reference = ReferenceOps(rounds_to_bf16=f"cpu-{isa}" in ROUNDS_TO_BF16)
    assert error((together,), (reference.linear(x_TD, pack(reference, "fp8", weight_ND)),)) <= 1e-5
    assert all(np.array_equal(together[row], ops.linear(x_TD[row : row + 1], weight)[0]) for row in (0, 63, 64, 66))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("tokens", [1, 256])
def test_every_float8_number_is_itself(isa: str, tokens: int) -> None:
    """A row holds all of them, subnormal ones too, and each token asks for one: alone, and of rows that are spread."""
    codes = np.arange(256, dtype=np.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0  # NaN, which readers refuse
    ops = CpuOps(isa=isa)
    weight = pack(ops, "fp8", np.zeros((5, 256), np.float32))
    assert isinstance(weight, packed.Fp8)
    weight.values[...] = codes
    weight.scales[...] = [1, 0.5, 3, 1, 0.1]
    x_TD = np.eye(256, dtype=np.float32)
    found = np.concatenate([ops.linear(x_TD[first : first + tokens], weight) for first in range(0, 256, tokens)])
    assert np.array_equal(found, packed.decode(weight).T)


@pytest.mark.parametrize("isa", ISAS)
def test_extreme_codes_do_not_saturate(isa: str) -> None:
    # every product at its largest, in the same sign: where 16-bit steps of AVX2 would overflow first
    ops = CpuOps(isa=isa)
    for form in ("int8", "int4"):
        for sign in (1.0, -1.0):
            values = np.full((16, 256), sign, np.float32)
            x_TD = np.ones((20, 256), np.float32)
            weight = pack(ops, form, values)  # type: ignore[arg-type]
            assert np.allclose(ops.linear(x_TD, weight), sign * 256, rtol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_extreme_groups_do_not_saturate(isa: str, tokens: int) -> None:
    ops = CpuOps(isa=isa)
    weight = pack(ops, "group4", np.zeros((16, 256), np.float32))
    assert isinstance(weight, packed.Group4)
    weight.codes[...] = 0xFF
    weight.halves[:, :, 0], weight.halves[:, :, 1] = 2, 3
    for sign in (1.0, -1.0):
        found = ops.linear(np.full((tokens, 256), sign, np.float32), weight)
        assert np.allclose(found, sign * 256 * 2 * (15 - 3), rtol=1e-6), isa


def test_a_weight_is_forgotten_with_its_last_reference() -> None:
    ops = CpuOps()
    weight = pack(ops, "int8", normal(generator(1), 16, 64))
    ops.linear(np.ones((1, 64), np.float32), weight)
    assert len(ops._weights) == 1
    del weight
    gc.collect()
    assert not ops._weights


@pytest.mark.parametrize("form", FORMATS)
def test_a_read_only_weight_is_good_enough(form: packed.Format) -> None:
    ops = CpuOps()
    values = normal(generator(1), 20, 70)
    memory = ops.packer.arena(packed.size_bytes(form, values.shape))
    ops.packer.encode(values, packed.place(form, values.shape, memory), 0)
    memory.setflags(write=False)
    weight = packed.place(form, values.shape, memory)
    assert ops.linear(np.ones((1, 70), np.float32), weight).shape == (1, 20)


def test_an_arena_is_aligned_and_outlives_its_maker() -> None:
    ops = CpuOps()
    arena = ops.packer.arena(10_000_001)
    assert arena.shape == (10_000_001,)
    assert arena.ctypes.data % 64 == 0
    view = arena[5_000_000:]
    del arena, ops
    gc.collect()
    view[...] = 7
    assert view[-1] == 7
    assert CpuOps().packer.arena(0).shape == (0,)


def test_wrong_arguments_are_refused_before_any_kernel_runs() -> None:
    ops = CpuOps()
    weight = pack(ops, "int8", normal(generator(1), 16, 64))
    with pytest.raises(ValueError, match="63 columns"):
        ops.linear(np.ones((2, 63), np.float32), weight)
    with pytest.raises(TypeError):
        ops.linear(np.ones((2, 64), np.float64), weight)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="contiguous columns"):
        ops.linear(np.ones((2, 128), np.float32)[:, ::2], weight)
    with pytest.raises(ValueError, match="expected 0 to 15"):
        ops.embed(weight, np.array([3, 16], np.int32))
    with pytest.raises(ValueError, match="expected 0 to 15"):
        ops.embed(weight, np.array([-1], np.int32))
    with pytest.raises(ValueError, match="cannot choose 17 of 16"):
        ops.route(np.ones((1, 64), np.float32), weight, 17)
    with pytest.raises(ValueError, match="even"):
        ops.swiglu(np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match="no ISA named 'mmx'"):
        CpuOps(isa="mmx")
    with pytest.raises(ValueError, match="1 to 256"):
        CpuOps(threads=1000)
    short = packed.Int8(np.zeros((1, 16, 16, 4), np.int8), np.zeros(16, np.float32), (17, 64))
    with pytest.raises(ValueError, match="expected 2048"):
        ops.linear(np.ones((1, 64), np.float32), short)


def test_experts_out_of_range_are_refused() -> None:
    ops = CpuOps()
    gate_up, down = (
        pack(ops, "int4", normal(generator(1), 2, 32, 64)),
        pack(ops, "int4", normal(generator(2), 2, 64, 16)),
    )
    x_TD, gates = np.ones((1, 64), np.float32), np.ones((1, 1), np.float32)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        ops.experts(x_TD, np.array([[2]], np.int32), gates, gate_up, down)


def test_attention_never_leaves_the_cache() -> None:
    module = load_native()
    native = module.Native()
    cache = CpuOps().new_cache(CacheShape(kv_heads=1, head_size=4, chunks=(None,)), (2, 0), 4)[0].native
    x = np.ones((1, 1, 4), np.float32)

    def call(position: int = 0, slot: int = 0, block: int = 0, base: int = 0, chunk: int = 0, last: int = 1) -> None:
        one = np.array([position], np.int32)
        native.attend(
            x, x, x, cache, one, np.array([0, last], np.int32), np.array([slot], np.int64),
            np.array([[block]], np.int32), np.array([base], np.int32), chunk, np.empty_like(x),
        )  # fmt: skip

    call()
    for wrong in [{"slot": 8}, {"slot": -1}, {"block": 2}, {"block": -1}, {"position": 4}, {"base": 1}, {"last": 2},
                  {"position": -1}, {"chunk": -1}]:  # fmt: skip
        with pytest.raises(ValueError):  # noqa: PT011
            call(**wrong)


def test_a_missing_extension_is_said_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(cpu.importlib, "import_module", missing)
    with pytest.raises(NativeUnavailable, match="pip install"):
        CpuOps()


def test_the_machine_is_described_and_measured() -> None:
    module = load_native()
    facts = module.cpu()
    assert facts["name"]
    assert facts["cores"] >= 1
    assert module.measure_read(1 << 22, 2) > 1e8
    assert module.Native().measure_int8(1) > 1e8
    assert module.Native().measure_int4(1) > 1e8
    assert module.isas()[0] == "generic"


def test_memory_of_outputs_is_used_again_only_when_nobody_holds_it() -> None:
    module = load_native()
    shape = (700, 1000)
    held = module.floats(shape)
    address = held.ctypes.data
    held[...] = 3
    view = held[5:]
    other = module.floats(shape)
    other[...] = 4
    del held
    gc.collect()
    assert (view == 3).all(), "a view keeps the memory"
    del view
    gc.collect()
    assert module.floats(shape).ctypes.data == address
    assert module.floats((0, 5)).shape == (0, 5)
    with pytest.raises(MemoryError):
        module.floats((2**40, 2**40))


def test_outputs_of_sizes_no_longer_asked_for_make_room() -> None:
    module = load_native()
    for rows in range(1000, 2000, 10):  # far more sizes than are kept
        module.floats((rows, 1000))
    address = module.floats((700, 1000)).ctypes.data
    assert module.floats((700, 1000)).ctypes.data == address


@pytest.mark.parametrize(("isas", "times"), [(("generic", "avx2"), 1), (("generic", "avx512vnni", "avx512bf16"), 2)])
def test_bf16_counts_twice_where_it_is_multiplied_in_pairs(isas: tuple[str, ...], times: float) -> None:
    cpu = machine.Cpu(name="", features=(), isas=isas, threads=1, tiles="none")
    assert cpu.bf16_over_float32 == times


def test_rounded_activations_are_those_of_bf16_and_fp8_weights_only() -> None:
    """A row's last column alone differs from bf16: float32 weights see it, pairs of bf16 do not."""
    for isa in ISAS:
        ops = CpuOps(isa=isa)
        x_TD = np.ones((3, 77), np.float32)
        x_TD[:, -1] += 2**-12
        ones = np.ones((5, 77), np.float32)
        exact = 77 + 2**-12
        assert (ops.linear(x_TD, pack(ops, "f32", ones)) == np.float32(exact)).all(), isa
        rounds = f"cpu-{isa}" in ROUNDS_TO_BF16
        for form in ("bf16", "fp8"):
            found = ops.linear(x_TD, pack(ops, form, ones))
            assert np.allclose(found, 77 if rounds else exact, rtol=1e-6, atol=0), (isa, form)
