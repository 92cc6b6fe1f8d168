"""Weight errors are those of the packers themselves."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from benchmarks.peers.weight_error import matrices, ours, relative_rms, theirs, weight_errors


def test_relative_rms_is_the_error_over_the_weights() -> None:
    exact = np.array([[3.0, 4.0]], np.float32)
    assert relative_rms(exact, exact) == 0.0
    assert relative_rms(exact, np.array([[3.0, 4.5]], np.float32)) == pytest.approx(0.1)


def test_more_bits_lose_less_in_every_format() -> None:
    for values in matrices().values():
        part = values[:32, :512]
        own = [relative_rms(part, ours(part, form)) for form in ("int4", "int8", "bf16", "f32")]
        assert own[0] > own[1] > own[2] > own[3] == 0.0
        kinds = [GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0, GGMLQuantizationType.BF16]
        other = [relative_rms(part, theirs(part, kind)) for kind in kinds]
        assert other[0] > other[1] > other[2] > 0.0


def test_the_report_has_both_matrices_for_every_format() -> None:
    rows = weight_errors("w4a8")
    assert {row["matrix"] for row in rows} == {"gaussian", "student-t(5)"}
    bits = {row["form"]: row["bits"] for row in rows}
    assert bits["GGUF Q4_0"] == 4.5
    assert 4.12 < bits["twofold int4 (dense)"] < 4.2
    assert all(0.0 < row["relative_rms"] < 0.2 for row in rows)
