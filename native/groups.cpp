// Products of int8 activation codes with Group4 panels (layout: ops/layout.py), four-bit codes with a float16 scale and
// zero point per group: what other quantisers write, run as it is.
//
//     y[t, n] = scale_t * sum over groups g of s[n, g] * (dot + (8 - z[n, g]) * sum of g's codes)
//     dot = sum over d in g of (nibble[n, d] - 8) * code[t, d], exact in int32
//
// Formats that are symmetric around 8 add nothing.
//
// Few tokens take nibbles as they lie. For many a slice of a panel's groups is unpacked once (levels, scales and
// offsets as floats) and stays in the first-level cache while the tokens pass; their sums wait in memory for the next
// slice.
#include "levels.h"
#include "panels.h"
#include "scratch.h"
#include "unpack.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kTile = kLanes == 16 ? 8 : kLanes == 8 && !kIsNarrowVnni ? 4 : 2;  // tokens whose sums stay in registers
constexpr uint8_t kMiddle = 8;
constexpr int64_t kSliceFrom = 16;                                     // tokens
constexpr int64_t kSliceGroups = 32;                                   // 20 KiB
constexpr int64_t kUnpackedHalves = kGroupBytes + 2 * kPanelRows * 4;  // of a group: levels, scales, offsets

struct GroupPanel {
    const uint8_t* codes;
    const uint16_t* halves;
    float* y;
    int64_t stride, rows;
};

inline Bytes centred(Bytes nibbles) { return nibbles + static_cast<uint8_t>(kLevelOffset - kMiddle); }

// Scales of a group's rows, and what is added for each unit of a token's sum of codes.
struct GroupHalves {
    F scale, offset;

    GroupHalves(const GroupPanel& panel, int64_t group, int part) {
        const uint16_t* halves = panel.halves + group * 2 * kPanelRows + part * kLanes;
        scale = load_f16(halves), offset = scale * (8.0f - load_f16(halves + kPanelRows));
    }
};

// sums += a group's, of kLanes rows.
template <int T>
[[gnu::always_inline]] inline void add_group(F (&sums)[T][kParts], int part, const Group (&dots)[T][kGroupSums][kParts],
                                             F scale, F offset, const float* const (&code_sums)[T], int64_t group) {
    for (int t = 0; t < T; ++t) {
        I dot{};
        for (int sum = 0; sum < kGroupSums; ++sum) dot += group_total(dots[t][sum][part]);
        const F more = fma(scale, __builtin_convertvector(dot, F), sums[t][part]);
        sums[t][part] = fma(offset, broadcast(code_sums[t][group]), more);
    }
}

template <int T>
inline void finish_panel(const F (&sums)[T][kParts], const Codes& x, int64_t token, const GroupPanel& panel) {
    for (int t = 0; t < T; ++t) {
        float outputs[kPanelRows];
        for (int part = 0; part < kParts; ++part) store(outputs + part * kLanes, sums[t][part] * x.scales[token + t]);
        __builtin_memcpy(panel.y + (token + t) * panel.stride, outputs,
                         static_cast<size_t>(panel.rows) * sizeof(float));
    }
}

template <int T>
[[gnu::noinline]] void multiply_panel(const Codes& x, int64_t token, const GroupPanel& panel) {
    F sums[T][kParts] = {};
    const int8_t* codes[T];
    const float* code_sums[T];
    for (int t = 0; t < T; ++t) codes[t] = x.row(token + t), code_sums[t] = x.group_sums(token + t);
    for (int64_t group = 0; group < x.width / kGroupColumns; ++group) {
        Group dots[T][kGroupSums][kParts];
        dot_group<T>(x, codes, group, panel.codes + group * 256, centred, dots);
        for (int part = 0; part < kParts; ++part) {
            const GroupHalves halves(panel, group, part);
            add_group(sums, part, dots, halves.scale, halves.offset, code_sums, group);
        }
    }
    finish_panel(sums, x, token, panel);
}

// Some groups of a panel, unpacked, and the sums of the groups before them: [tokens][16].
struct GroupSlice {
    const uint8_t* groups;
    int64_t first, count;
    float* sums;
};

template <int T>
[[gnu::noinline]] void multiply_slice(const Codes& x, int64_t token, const GroupSlice& slice, const GroupPanel& panel) {
    F sums[T][kParts] = {};
    float* kept = slice.sums + token * kPanelRows;
    if (slice.first > 0)
        for (int t = 0; t < T; ++t)
            for (int part = 0; part < kParts; ++part) sums[t][part] = load_f32(kept + t * kPanelRows + part * kLanes);
    const Groups<T> tokens(x, token, slice.first);
    const float* code_sums[T];
    for (int t = 0; t < T; ++t) code_sums[t] = x.group_sums(token + t) + slice.first;
    const uint8_t* w = slice.groups;
    for (int64_t group = 0; group < slice.count; ++group, w += kUnpackedHalves) {
        Group dots[T][kGroupSums][kParts];
        tokens.dot(group, w, dots);
        const float* halves = reinterpret_cast<const float*>(w + kGroupBytes);
        for (int part = 0; part < kParts; ++part)
            add_group(sums, part, dots, load_f32(halves + part * kLanes), load_f32(halves + kPanelRows + part * kLanes),
                      code_sums, group);
    }
    if ((slice.first + slice.count) * kGroupColumns == x.width) return finish_panel(sums, x, token, panel);
    for (int t = 0; t < T; ++t)
        for (int part = 0; part < kParts; ++part) store(kept + t * kPanelRows + part * kLanes, sums[t][part]);
}

void unpack(const GroupPanel& panel, int64_t first, int64_t count, uint8_t* into) {
    for (int64_t group = first; group < first + count; ++group, into += kUnpackedHalves)
        for (int part = 0; part < kParts; ++part) {
            for (int j = 0; j < kGroupQuads / 2; ++j) {
                const int64_t place = j * kQuadBytes + part * 4 * kLanes;
                const uint8_t* codes = panel.codes + group * 256 + place;
                __builtin_prefetch(codes + kAhead);
                const Bytes both = load<Bytes>(codes);
                store(into + place, centred(both & 15));
                store(into + kGroupBytes / 2 + place, centred((Bytes)((Pairs)both >> 4) & 15));
            }
            const GroupHalves halves(panel, group, part);
            store(into + kGroupBytes + part * 4 * kLanes, halves.scale);
            store(into + kGroupBytes + 4 * kPanelRows + part * 4 * kLanes, halves.offset);
        }
}

void multiply_slices(const Codes& x, int64_t tokens, const GroupPanel& panel) {
    uint8_t* groups = scratch<uint8_t>(Slot::kPanel, kSliceGroups * kUnpackedHalves);
    GroupSlice slice{groups, 0, 0, scratch<float>(Slot::kSums, tokens * kPanelRows)};
    for (; slice.first < x.width / kGroupColumns; slice.first += slice.count) {
        slice.count = smaller(kSliceGroups, x.width / kGroupColumns - slice.first);
        unpack(panel, slice.first, slice.count, groups);
        for_each_tile<kTile>(tokens, [&]<int T>(int64_t token) { multiply_slice<T>(x, token, slice, panel); });
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
        if (tokens >= kSliceFrom)
            multiply_slices(x, tokens, panel);
        else
            for_each_tile<kTile>(tokens, [&]<int T>(int64_t token) { multiply_panel<T>(x, token, panel); });
    }
}

}  // namespace twofold::TWOFOLD_ISA
