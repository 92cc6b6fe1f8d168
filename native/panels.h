// What the integer products share: where a panel of 16 weight rows lies, and its sums turned into outputs.
#pragma once

#include "products.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {

// One panel's rows n and scales, and where its 16 outputs of each token go.
struct Panel {
    const uint8_t* codes;
    const uint8_t* multipliers;
    const float* scales;
    float* y;
    int64_t stride, rows;
};

// On tiles, where kHasTiles (tiles.cpp): all tokens, at least one, with `count` panels of int8 codes as they are; and
// what measure_int8 is there.
void multiply_tiles(const Codes& x, int64_t tokens, const Panel* panels, int64_t count);
int64_t measure_tiles(int64_t rounds);

namespace {

// Outputs of T tokens, from the sums of one panel.
template <int T>
inline void finish(const I (&sums)[T][kParts], const Codes& x, int64_t token, const Panel& panel) {
    for (int t = 0; t < T; ++t) {
        float outputs[16];
        float* y = panel.y + (token + t) * panel.stride;
        float* target = panel.rows == 16 ? y : outputs;
        for (int part = 0; part < kParts; ++part)
            store(target + part * kLanes, __builtin_convertvector(sums[t][part], F) *
                                              (x.scales[token + t] * load_f32(panel.scales + part * kLanes)));
        if (panel.rows < 16) __builtin_memcpy(y, outputs, static_cast<size_t>(panel.rows) * sizeof(float));
    }
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
