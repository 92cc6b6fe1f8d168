"""Names of GGUF's tensor types by their numbers, so that a file with one that cannot be read is told which.

Source: ggml, ggml.h, enum ggml_type; numbers that are missing were taken back there.
"""

from __future__ import annotations

from collections.abc import Mapping

TYPE_NAMES: Mapping[int, str] = {
    **dict(enumerate(["F32", "F16", "Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0", "Q8_1"])),
    **dict(enumerate(["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"], 10)),
    **dict(enumerate(["IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS"], 16)),
    **dict(enumerate(["I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8"], 24)),
    **{34: "TQ1_0", 35: "TQ2_0", 36: "IQ4_NL_4_4", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0"},
}
