"""What this CPU is and what it can do at most: features, threads, measured limits."""

from __future__ import annotations

from dataclasses import dataclass

from twofold.backends.cpu.ops import load_native


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """Facts about the CPU; `isas` are the builds of our kernels it can run, slowest first.

    `tiles` says what became of AMX: "none" (no such CPU), "not saved" or "refused" by the system, "granted".
    """

    name: str
    features: tuple[str, ...]
    isas: tuple[str, ...]
    threads: int
    tiles: str

    @property
    def chosen_isa(self) -> str:
        """The build that is used unless another is asked for."""
        return self.isas[-1]

    @property
    def bf16_over_float32(self) -> float:
        """Products of what is bf16 or float8 that the chosen build makes in the time of one of float32.

        AMX would make more; how many was never measured.
        """
        return 2.0 if self.chosen_isa == "avx512bf16" else 1.0


def cpu() -> Cpu:
    """Facts about this machine's CPU; raises NativeUnavailable without the native kernels."""
    module = load_native()
    facts = module.cpu()
    return Cpu(
        name=facts["name"],
        features=tuple(facts["features"]),
        isas=tuple(module.isas()),
        threads=module.threads(),
        tiles=facts["tiles"],
    )


def testable_isas() -> list[str]:
    """Builds of the kernels that this CPU can run or imitate, slowest first; the imitated ones are for tests only."""
    return list(load_native().testable_isas())


def measure_read(size_bytes: int) -> float:
    """Bytes per second all threads together read from a buffer of this size, best of a few passes."""
    module = load_native()
    return float(module.measure_read(size_bytes, module.threads()))


def measure_int8() -> float:
    """Int8 operations per second of all threads from registers; a multiply-add counts as two."""
    module = load_native()
    return float(module.Native().measure_int8(module.threads()))


def measure_int4() -> float:
    """The same for four-bit weights once they are unpacked: more where int8 codes have no instruction of their own."""
    module = load_native()
    return float(module.Native().measure_int4(module.threads()))
