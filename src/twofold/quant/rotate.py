"""Rotations folded into the weights: the same network in another basis, in which no channel stands out.

With an orthogonal Q, the residual stream x becomes x Q. What reads it has W Q for W, what writes to it Q^T W. RMS norm
commutes with Q once its weight is part of the readers, so every folded norm's weight is one. The values of each
key-value head are rotated in the same way, by what writes them (v_proj) and what reads them (o_proj). Nothing is
left to do at run time.

Q is a Hadamard matrix with random signs; of a size that is a power of two times an odd number, the Kronecker product
of a Hadamard matrix and a random orthogonal one. All of it is computed in float64 and rounded once, to float32.

Source: Ashkboos et al. 2024 (QuaRot, arXiv 2404.00456); Liu et al. 2024 (SpinQuant, arXiv 2405.16406), R1 and R2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twofold.errors import QuantisationError
from twofold.ops.packed import AnyArray, Dense, Floats, Packed
from twofold.quant.units import Unit

Doubles = npt.NDArray[np.float64]

READERS: Mapping[str, str] = {
    "qkv": "attention_norm",
    "gate_up": "feed_forward_norm",
    "router": "feed_forward_norm",
    "experts_gate_up": "feed_forward_norm",
    "head": "final_norm",
}
"""Weights that read the residual stream, and the norm between it and them."""
WRITERS = ("output", "down", "experts_down")
"""Weights that write to the residual stream."""
LARGEST_FACTOR, LARGEST_MERGED = 64, 128
"""Rows of a factor, alone and with a small neighbour: few steps, each a product of small dense matrices."""
SLICE_VALUES = 2**19
"""Values turned at a time, in float64: 4 MiB stay in the cache, and take two thirds of the time that 32 MiB do."""
SEED = 1


@dataclass(frozen=True)
class Rotation:
    """An orthogonal matrix Q [D, D]: diag(signs_D) times the Kronecker product of the factors."""

    signs_D: Doubles
    factors: tuple[Doubles, ...]

    def turn(self, x_ND: AnyArray, gains_D: AnyArray | None = None) -> Floats:
        """x Q of rows in any float dtype, their columns multiplied by the gains before."""
        scales_D = self.signs_D if gains_D is None else self.signs_D * gains_D.astype(np.float64)
        result = np.empty(x_ND.shape, np.float32)
        step = max(1, SLICE_VALUES // len(scales_D))
        for start in range(0, len(x_ND), step):
            result[start : start + step] = self.multiply(x_ND[start : start + step].astype(np.float64) * scales_D)
        return result

    def multiply(self, x_ND: Doubles) -> Doubles:
        """Rows times the Kronecker product, one factor after the other."""
        right = len(self.signs_D)
        parts = x_ND
        for factor in self.factors:
            size = len(factor)
            right //= size
            # A last axis of one would make many products of a matrix and a vector out of one of two matrices.
            is_last = right == 1
            parts = parts.reshape(-1, size) @ factor if is_last else factor.T @ parts.reshape(-1, size, right)
        return parts.reshape(x_ND.shape)


@dataclass(frozen=True)
class Rotations:
    """What is folded into a network: one rotation of the residual stream, one of the values of every head."""

    stream: Rotation
    values: Rotation
    kv_heads: int


def make_rotations(hidden: int, head_size: int, kv_heads: int) -> Rotations:
    """The rotations of a network of these sizes: always the same."""
    random = np.random.default_rng(SEED)
    return Rotations(make_rotation(hidden, random), make_rotation(head_size, random), kv_heads)


def make_rotation(size: int, random: np.random.Generator) -> Rotation:
    """A random rotation of `size` dimensions."""
    signs_D = random.choice(np.array([-1.0, 1.0]), size)
    odd = size
    factors: list[Doubles] = []
    while odd % 2 == 0:
        even = min(LARGEST_FACTOR, odd & -odd)
        factors.append(hadamard(even))
        odd //= even
    if odd > 1 or not factors:
        factors.append(np.linalg.qr(random.standard_normal((odd, odd)))[0])
    return Rotation(signs_D, tuple(merged(factors)))


def merged(factors: list[Doubles]) -> list[Doubles]:
    """The same Kronecker product of fewer factors: small neighbours become one."""
    result = factors[:1]
    for factor in factors[1:]:
        if len(result[-1]) * len(factor) <= LARGEST_MERGED:
            result[-1] = np.kron(result[-1], factor).astype(np.float64)
        else:
            result.append(factor)
    return result


def hadamard(size: int) -> Doubles:
    """Sylvester's Hadamard matrix of a size that is a power of two, scaled to be orthogonal."""
    result = np.ones((1, 1))
    while len(result) < size:
        result = np.block([[result, result], [result, -result]]) / np.sqrt(2)
    return result


def rotate_unit(unit: Unit, weights: Mapping[str, Packed], rotations: Rotations) -> None:
    """Fold the rotations into the weights of a unit (Dense float32), in place.

    Raises QuantisationError for a weight it does not know the place of.
    """
    parts = {target.name: target.name.rpartition(".")[2] for target in unit.targets}
    folded = set()
    for name, part in parts.items():
        if part in READERS:
            norm = name.removesuffix(part) + READERS[part]
            folded.add(norm)
            gains_D = values_of(weights[norm])
            for w_ND in matrices(weights[name]):
                w_ND[:] = rotations.stream.turn(w_ND, gains_D)
        elif part in WRITERS or part == "embedding":
            for w_ND in matrices(weights[name]):
                turned_DN = w_ND if part == "embedding" else w_ND.T
                turned_DN[:] = rotations.stream.turn(turned_DN)
        elif part not in READERS.values():
            raise QuantisationError(
                f"{name} is a weight rotation does not know; choose --transform none or smooth for this model"
            )
        if part in ("qkv", "output"):
            rotate_values(part, next(matrices(weights[name])), rotations)
    for norm in folded:
        values_of(weights[norm])[:] = 1


def rotate_values(part: str, w_ND: AnyArray, rotations: Rotations) -> None:
    """Rotate the values of every head: the rows of v in qkv, the columns of output that read them."""
    size = len(rotations.values.signs_D)
    if part == "output":
        w_ND[:] = rotations.values.turn(w_ND.reshape(-1, size)).reshape(w_ND.shape)
        return
    for head in range(rotations.kv_heads):
        v_KD = w_ND[len(w_ND) - (head + 1) * size :][:size]
        v_KD[:] = rotations.values.turn(v_KD.T).T


def rotate_projector(w_DN: AnyArray, rotations: Rotations) -> Floats:
    """A matrix outside the network whose outputs take the place of embeddings (an image's), in the new basis."""
    return rotations.stream.turn(w_DN.T).T


def matrices(weight: Packed) -> Iterator[AnyArray]:
    """The matrices [N, D] of a weight, as views."""
    values = values_of(weight)
    yield from values if values.ndim > 2 else (values,)


def values_of(weight: Packed) -> AnyArray:
    """The values of a weight that is Dense, as they lie in memory."""
    assert isinstance(weight, Dense), "weights to fold into are loaded as they are"
    return weight.values
