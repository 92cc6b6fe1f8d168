// Products of int8 activation codes with Group4 panels (layout: ops/layout.py), four-bit codes with a float16 scale and
// zero point per group: what other quantisers write, run as it is.
//
//     y[t, n] = scale_t * sum over groups g of s[n, g] * (dot + (8 - z[n, g]) * sum of g's codes)
//     dot = sum over d in g of (nibble[n, d] - 8) * code[t, d], exact in int32
//
// Formats that are symmetric around 8 add nothing.
#include "levels.h"
#include "panels.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kTile = kLanes == 16 ? 8 : kLanes == 8 ? 4 : 2;  // tokens whose sums stay in registers
constexpr uint8_t kMiddle = 8;

struct GroupPanel {
    const uint8_t* codes;
    const uint16_t* halves;
    float* y;
    int64_t stride, rows;
};

template <int T>
[[gnu::noinline]] void multiply_panel(const Codes& x, int64_t token, const GroupPanel& panel) {
    F sums[T][kParts] = {};
    const int8_t* codes[T];
    const float* code_sums[T];
    for (int t = 0; t < T; ++t) codes[t] = x.row(token + t), code_sums[t] = x.group_sums(token + t);
    const auto centred = [](Bytes nibbles) { return nibbles + static_cast<uint8_t>(kLevelOffset - kMiddle); };
    for (int64_t group = 0; group < x.width / kGroupColumns; ++group) {
        Group dots[T][kGroupSums][kParts];
        dot_group<T>(x, codes, group, panel.codes + group * 256, centred, dots);
        for (int part = 0; part < kParts; ++part) {
            const uint16_t* halves = panel.halves + group * 2 * kPanelRows + part * kLanes;
            const F scale = load_f16(halves), offset = scale * (8.0f - load_f16(halves + kPanelRows));
            for (int t = 0; t < T; ++t) {
                I dot{};
                for (int sum = 0; sum < kGroupSums; ++sum) dot += group_total(dots[t][sum][part]);
                const F more = fma(scale, __builtin_convertvector(dot, F), sums[t][part]);
                sums[t][part] = fma(offset, broadcast(code_sums[t][group]), more);
            }
        }
    }
    for (int t = 0; t < T; ++t) {
        float outputs[kPanelRows];
        for (int part = 0; part < kParts; ++part) store(outputs + part * kLanes, sums[t][part] * x.scales[token + t]);
        __builtin_memcpy(panel.y + (token + t) * panel.stride, outputs,
                         static_cast<size_t>(panel.rows) * sizeof(float));
    }
}

}  // namespace

void multiply_groups(const Codes& x, int64_t tokens, const Weight& weight_ND, int64_t first, int64_t last, float* y,
                     int64_t stride) {
    const int64_t groups = x.width / kGroupColumns;
    for (int64_t i = first; i < last; ++i) {
        const GroupPanel panel{static_cast<const uint8_t*>(weight_ND.codes) + i * groups * 256,
                               weight_ND.halves + i * groups * 2 * kPanelRows, y + (i - first) * kPanelRows, stride,
                               smaller(kPanelRows, weight_ND.rows - i * kPanelRows)};
        for_each_tile<kTile>(tokens, [&]<int T>(int64_t token) { multiply_panel<T>(x, token, panel); });
    }
}

}  // namespace twofold::TWOFOLD_ISA
