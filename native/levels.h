// The sixteen values of a four-bit code (ops/levels.py). Dot products take them as level + kLevelOffset: unsigned
// bytes.
#pragma once

#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int32_t kLevelOffset = 15;  // REACH
constexpr int8_t kLevels[16] = {-15, -12, -9, -7, -5, -3, -2, -1, 0, 1, 2, 4, 6, 8, 10, 13};
constexpr uint8_t kOffsetLevels[16] = {0, 3, 6, 8, 10, 12, 13, 14, 15, 16, 17, 19, 21, 23, 25, 28};

// level + kLevelOffset of each byte 0..15.
inline Bytes offset_levels(Bytes codes) { return look_up(kOffsetLevels, codes); }

// Code and value of each stretch of half a unit, from -15 on: no two levels meet within one.
constexpr int kCells = 64;
struct Cells {
    float levels[kCells];
    float codes[kCells];
};
constexpr Cells list_cells() {
    Cells result{};
    for (int cell = 0; cell < kCells; ++cell) {
        int best = 0;
        for (int code = 1; code < 16; ++code) {
            const int middle = 2 * (cell - 2 * kLevelOffset) + 1;  // in quarters of a unit
            const int there = 4 * kLevels[code] - middle, here = 4 * kLevels[best] - middle;
            if (there * there < here * here) best = code;
        }
        result.levels[cell] = kLevels[best];
        result.codes[cell] = static_cast<float>(best);
    }
    return result;
}
constexpr Cells kNearest = list_cells();

// The stretch each number lies in, 0..60; numbers beyond the levels count as the last ones.
inline I cell_of(F units) {
    const F bounded = vmin(vmax(units, broadcast(-15.0f)), broadcast(15.0f));
    return round_to_int(bounded * 2.0f - 0.5f) + 2 * kLevelOffset;
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
