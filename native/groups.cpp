// Products of int8 activation codes with Group4 panels (layout: ops/layout.py), four-bit codes with a float16 scale and
// zero point per group: what other quantisers write, run as it is.
//
//     y[t, n] = scale_t * sum over groups g of s[n, g] * (dot - z[n, g] * sum of g's codes)
//     dot = sum over d in g of nibble[n, d] * code[t, d], exact in int32
//
// Scales and zero points take two multiplications a group, one dot in five on AVX-512, and by that these are slower
// than Int4 panels.
//
// Tokens take nibbles as they lie. Where registers are few, many tokens take a slice of some panels' groups that is
// unpacked once (nibbles as bytes, scales and offsets as floats) and stays in the caches while they pass; their sums
// wait in memory for the next slice.
#include "levels.h"
#include "panels.h"
#include "scratch.h"
#include "unpack.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kTile = kLanes == 16 ? 12 : kLanes == 8 && !kIsNarrowVnni ? 4 : 2;  // tokens whose sums stay in registers
constexpr int64_t kTokenBytes = 256 * 1024;                    // activations that pass, from the second-level cache
constexpr int64_t kSliceFrom = kLanes == 16 ? INT64_MAX : 24;  // tokens; registers are many there
constexpr int64_t kBlockPanels = 4;                            // that tokens pass at once,
constexpr int64_t kSliceGroups = 32;                           // so many groups of them: 20 KiB each
constexpr int64_t kUnpackedHalves = kGroupBytes + 2 * kPanelRows * 4;  // of a group: levels, scales, offsets

struct GroupPanel {
    const uint8_t* codes;
    const uint16_t* halves;
    float* y;
    int64_t stride, rows;
};

// Scales of a group's rows, and what is added for each unit of a token's sum of codes: exact, of two halves.
struct GroupHalves {
    F scale, offset;

    GroupHalves(const GroupPanel& panel, int64_t group, int part) {
        const uint16_t* halves = panel.halves + group * 2 * kPanelRows + part * kLanes;
        scale = load_f16(halves), offset = -scale * load_f16(halves + kPanelRows);
    }
};

// sums += a group's, of kLanes rows.
template <int T>
[[gnu::always_inline]] inline void add_group(F (&sums)[T][kParts], int part, const Group (&dots)[T][1][kParts], F scale,
                                             F offset, const float* const (&code_sums)[T], int64_t group) {
    for (int t = 0; t < T; ++t) {
        const F more = fma(scale, __builtin_convertvector(group_total(dots[t][0][part]), F), sums[t][part]);
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
        Group dots[T][1][kParts] = {};
        dot_group(codes, group, panel.codes + group * 256, [](Bytes nibbles) { return nibbles; }, dots);
        for (int part = 0; part < kParts; ++part) {
            const GroupHalves halves(panel, group, part);
            add_group(sums, part, dots, halves.scale, halves.offset, code_sums, group);
        }
    }
    finish_panel(sums, x, token, panel);
}

// Some groups of `panels` panels, unpacked, and the sums of the groups before them: [tokens][panels][16].
struct GroupSlice {
    const uint8_t* groups;
    int64_t first, count, panels;
    float* sums;
};

// T tokens with panel p of the slice.
template <int T>
[[gnu::noinline]] void multiply_slice(const Codes& x, int64_t token, const GroupSlice& slice, int64_t p,
                                      const GroupPanel& panel) {
    F sums[T][kParts] = {};
    float* kept = slice.sums + (token * slice.panels + p) * kPanelRows;
    const int64_t apart = slice.panels * kPanelRows;
    if (slice.first > 0)
        for (int t = 0; t < T; ++t)
            for (int part = 0; part < kParts; ++part) sums[t][part] = load_f32(kept + t * apart + part * kLanes);
    const int8_t* codes[T];
    const float* code_sums[T];
    for (int t = 0; t < T; ++t) {
        codes[t] = x.row(token + t) + slice.first * kGroupColumns;
        code_sums[t] = x.group_sums(token + t) + slice.first;
    }
    const uint8_t* w = slice.groups + p * kSliceGroups * kUnpackedHalves;
    for (int64_t group = 0; group < slice.count; ++group, w += kUnpackedHalves) {
        Group dots[T][1][kParts] = {};
        dot_unpacked(codes, group, w, dots);
        const float* halves = reinterpret_cast<const float*>(w + kGroupBytes);
        for (int part = 0; part < kParts; ++part)
            add_group(sums, part, dots, load_f32(halves + part * kLanes), load_f32(halves + kPanelRows + part * kLanes),
                      code_sums, group);
    }
    if ((slice.first + slice.count) * kGroupColumns == x.width) return finish_panel(sums, x, token, panel);
    for (int t = 0; t < T; ++t)
        for (int part = 0; part < kParts; ++part) store(kept + t * apart + part * kLanes, sums[t][part]);
}

void unpack(const GroupPanel& panel, int64_t first, int64_t count, uint8_t* into) {
    for (int64_t group = first; group < first + count; ++group, into += kUnpackedHalves)
        for (int part = 0; part < kParts; ++part) {
            for (int j = 0; j < kGroupQuads / 2; ++j) {
                const int64_t place = j * kQuadBytes + part * 4 * kLanes;
                const uint8_t* codes = panel.codes + group * 256 + place;
                __builtin_prefetch(codes + kAhead);
                const Bytes both = load<Bytes>(codes);
                store(into + place, both & 15);
                store(into + kGroupBytes / 2 + place, (Bytes)((Pairs)both >> 4) & 15);
            }
            const GroupHalves halves(panel, group, part);
            store(into + kGroupBytes + part * 4 * kLanes, halves.scale);
            store(into + kGroupBytes + 4 * kPanelRows + part * 4 * kLanes, halves.offset);
        }
}

void multiply_slices(const Codes& x, int64_t tokens, const GroupPanel* panels, int64_t count) {
    uint8_t* groups = scratch<uint8_t>(Slot::kPanel, count * kSliceGroups * kUnpackedHalves);
    GroupSlice slice{groups, 0, 0, count, scratch<float>(Slot::kSums, tokens * count * kPanelRows)};
    for (; slice.first < x.width / kGroupColumns; slice.first += slice.count) {
        slice.count = smaller(kSliceGroups, x.width / kGroupColumns - slice.first);
        for (int64_t p = 0; p < count; ++p)
            unpack(panels[p], slice.first, slice.count, groups + p * kSliceGroups * kUnpackedHalves);
        for_each_tile<kTile>(tokens, [&]<int T>(int64_t token) {
            for (int64_t p = 0; p < count; ++p) multiply_slice<T>(x, token, slice, p, panels[p]);
        });
    }
}

}  // namespace

void multiply_groups(const Codes& x, int64_t tokens, const Weight& weight_ND, int64_t first, int64_t last, float* y,
                     int64_t stride) {
    const int64_t groups = x.width / kGroupColumns;
    const auto panel_at = [&](int64_t i, int64_t token) {
        return GroupPanel{static_cast<const uint8_t*>(weight_ND.codes) + i * groups * 256,
                          weight_ND.halves + i * groups * 2 * kPanelRows, y + token * stride + (i - first) * kPanelRows,
                          stride, smaller(kPanelRows, weight_ND.rows - i * kPanelRows)};
    };
    const int64_t step = larger<int64_t>(8 * kTile, kTokenBytes / x.stride);
    for (int64_t token = 0; token < tokens; token += step) {
        const Codes some = from_row(x, token);
        const int64_t count = smaller(step, tokens - token);
        for (int64_t i = first; i < last; i += kBlockPanels) {
            GroupPanel panels[kBlockPanels];
            const int64_t block = smaller(kBlockPanels, last - i);
            for (int64_t p = 0; p < block; ++p) panels[p] = panel_at(i + p, token);
            if (count >= kSliceFrom)
                multiply_slices(some, count, panels, block);
            else
                for (int64_t p = 0; p < block; ++p)
                    for_each_tile<kTile>(count, [&]<int T>(int64_t t) { multiply_panel<T>(some, t, panels[p]); });
        }
    }
}

}  // namespace twofold::TWOFOLD_ISA
