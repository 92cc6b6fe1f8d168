// Int4 panels unpacked once for many tokens, in one of two ways.
//
// As int8 codes m * level, where one instruction takes four products of any of them (VNNI, tiles, the dot of Armv8.2).
// As levels where it does not: they are below 29, so vpmaddubsw is exact for them and needs no signs. A group of 32
// columns of a panel is then
//
//     [8 quads][16 rows][4 columns] level + kLevelOffset, and its 16 multipliers as group_finish takes them.
#pragma once

#include "levels.h"
#include "panels.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// The multipliers of a group for pairs of codes, and what makes their products unsigned. Both bytes of a 16-bit lane
// are multiplied at once: m times (low + 256 high) carries nothing from one to the other once 128 - 15 m is added to
// each, for then they lie between 8 and 248.
struct Scaling {
    Pairs m, offset;

    explicit Scaling(I multipliers)
        : m((Pairs)((multipliers & 0xFFFF) | (multipliers << 16))), offset((128 - kLevelOffset * m) * 257) {}

    // m * level of four columns of kLanes rows, with kWeightOffset (without, for tiles).
    Bytes operator()(Bytes nibbles) const {
        const Bytes offset_by_128 = (Bytes)((Pairs)offset_levels(nibbles) * m + offset);
        return kHasTiles || kWeightOffset == 0 ? offset_by_128 ^ 128 : offset_by_128;
    }
};

constexpr int64_t kGroupBytes = kGroupQuads * kQuadBytes;  // of 16 rows, unpacked
constexpr int64_t kUnpackedGroup = kGroupBytes + (kUnpacksLevels ? kPanelRows * 4 : 0);

// Columns first .. first + columns - 1 of an Int4 panel.
inline void unpack(const Panel& panel, int64_t first, int64_t columns, uint8_t* into) {
    for (int64_t group = first / kGroupColumns; group < (first + columns) / kGroupColumns; ++group) {
        I multipliers[kParts];
        unpack_multipliers(panel.multipliers + group * 8, multipliers);
        for (int part = 0; part < kParts; ++part) {
            const Scaling scaled(multipliers[part]);
            for (int j = 0; j < kGroupQuads / 2; ++j) {
                const int64_t place = j * kQuadBytes + part * 4 * kLanes;
                const uint8_t* codes = panel.codes + group * 256 + place;
                __builtin_prefetch(codes + kAhead);
                const Bytes both = load<Bytes>(codes), low = both & 15, high = (Bytes)((Pairs)both >> 4) & 15;
                store(into + place, kUnpacksLevels ? offset_levels(low) : scaled(low));
                store(into + kGroupBytes / 2 + place, kUnpacksLevels ? offset_levels(high) : scaled(high));
            }
            if constexpr (kUnpacksLevels) store(into + kGroupBytes + part * 4 * kLanes, multipliers[part]);
        }
        into += kUnpackedGroup;
    }
}

constexpr int kStep = 4;  // quads written out

// dots += those of T tokens, whose codes begin at these, with a group of bytes; in two halves if kSums is.
template <int T, int kSums>
[[gnu::always_inline]] inline void dot_unpacked(const int8_t* const (&codes)[T], int64_t group, const uint8_t* w,
                                                Group (&dots)[T][kSums][kParts]) {
#pragma GCC unroll 1
    for (int begin = 0; begin < kGroupQuads; begin += kStep)
        for (int j = begin; j < begin + kStep; ++j) {
            Bytes bytes[kParts];
            for (int part = 0; part < kParts; ++part) bytes[part] = load<Bytes>(w + j * kQuadBytes + part * 4 * kLanes);
            for (int t = 0; t < T; ++t) {
                const I values = load_quad(codes[t] + group * kGroupColumns + 4 * j);
                for (int part = 0; part < kParts; ++part) {
                    Group& dot = dots[t][begin * kSums / kGroupQuads][part];
                    dot = pin(group_dot(dot, bytes[part], values));
                }
            }
        }
}

// sums += T tokens from group `first` on times so many groups of levels. `on_group(group)` is called before each.
template <int T, class OnGroup>
inline void add_levels(I (&sums)[T][kParts], const Codes& x, int64_t token, int64_t first, int64_t groups,
                       const uint8_t* w, const OnGroup& on_group) {
    const int8_t* codes[T];
    for (int t = 0; t < T; ++t) codes[t] = x.row(token + t);
    for (int64_t group = first; group < first + groups; ++group, w += kUnpackedGroup) {
        on_group(group - first);
        Group dots[T][kGroupSums][kParts];
        start_group(x, codes, group, dots);
        dot_unpacked(codes, group, w, dots);
        for (int part = 0; part < kParts; ++part) {
            const I multipliers = load<I>(w + kGroupBytes + part * 4 * kLanes);
            for (int t = 0; t < T; ++t)
                for (int sum = 0; sum < kGroupSums; ++sum)
                    sums[t][part] = group_finish(sums[t][part], dots[t][sum][part], multipliers);
        }
    }
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
