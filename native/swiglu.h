// What swiglu and experts share.
#pragma once

#include <cstdint>

namespace twofold::TWOFOLD_ISA {

// a_F = silu(row[:width]) * row[width:2 * width]; a_F may be the row itself.
void swiglu_row(const float* row, int64_t width, float* a_F);

}  // namespace twofold::TWOFOLD_ISA
