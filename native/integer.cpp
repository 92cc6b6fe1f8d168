// Products of int8 activation codes with Int8 and Int4 panels (layouts: ops/layout.py).
//
//     y[t, n] = float(sum over d of code[t, d] * integer[n, d]) * (scale_t * scale_n)
//
// The sum is exact in int32, hence the same on every ISA and in every order; the float operations are those of the
// reference, so results are bit-equal to it. Scalar version of one sum, Int4:
//
//     for each group g: dot = sum over its columns of level[nibble] * code;  sum += m[g] * dot
//
// Few tokens: nibbles become level + 15, a group's sum is corrected by -15 * sum(codes) and multiplied by m once.
// Some more, where one instruction is a dot: every code becomes m * q in a register, for up to sixteen tokens at once.
// Many tokens: a slice of the columns of four panels is unpacked (unpack.h) and stays in the caches while the tokens
// pass; their sums wait in memory for the next slice. So a weight's width does not decide how many panels share a pass.
// While tokens pass, nothing would be read from memory: they ask for the next slice on their way.
#include "levels.h"
#include "panels.h"
#include "scratch.h"
#include "unpack.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kWideTile = kLanes == 16 ? 8 : kIsNarrowVnni ? 6 : 4;  // tokens per tile
constexpr int kWidePanels = kLanes == 16 ? 2 : 1;           // and panels: accumulators fill the registers but a few
constexpr int kNibbleTile = kIsNarrowVnni ? 2 : kWideTile;  // of nibbles as they lie, which take two sums a group
// Of one panel, so that registers are left to unpack with.
constexpr int kFullTile = kLanes == 16 ? 16 : kIsNarrowVnni ? 6 : 0;
constexpr int kQuadsAtOnce = kLanes == 16 ? 4 : 1;  // written out: Zen 4 loses a tenth of its dots to a loop of one
constexpr int kBlockPanels = 4;                     // panels that the tokens pass at once,
constexpr int64_t kSliceColumns = kLanes == 16 ? 2048 : 1024;  // so many columns of them: 64 KiB for 1024
constexpr bool kAsksForOutputs = kLanes == 16;                 // with AVX2 it costs more than it saves
constexpr int64_t kPanelBytes = kSliceColumns / kGroupColumns * kUnpackedGroup;
constexpr int64_t kLineBytes = 64;
constexpr int64_t kSoon = 512;  // bytes of weights from the second-level cache, asked for before their use
constexpr int64_t kTokenBytes = 1536 * 1024;  // activations that pass, from the second-level cache
constexpr int64_t kTileBlock = 128 * 1024;    // unpacked panels for them

// So many cache lines of each of some panels, to be asked for one by one during a pass.
struct Ahead {
    const uint8_t* from[kWidePanels] = {};
    int64_t lines = 0;
};

// sums += T tokens times P panels, over some columns from `first` and `w` on. The panels' codes carry kWeightOffset
// already but for kOffset; those of kFromMemory are asked for ahead. Two panels share each quad of activations once it
// is spread over a register: one panel alone is bound by those loads.
template <int T, int P, uint8_t kOffset, bool kFromMemory>
inline void add_int8(I (&sums)[P][T][kParts], const int8_t* first, int64_t stride, const uint8_t* const* w,
                     int64_t columns, const Ahead& ahead = {}) {
    Places<T> places(first, stride);
    const uint8_t* panels[P];
    for (int p = 0; p < P; ++p) panels[p] = w[p];
    const int64_t quads = columns / 4, every = larger<int64_t>(1, quads / larger<int64_t>(1, ahead.lines));
    int64_t due = ahead.lines == 0 ? quads : 0, line = 0;
    for (int64_t begin = 0; begin < quads; begin += kQuadsAtOnce) {
        for (; due <= begin; due = ++line == ahead.lines ? quads : due + every)
            for (int p = 0; p < P; ++p) __builtin_prefetch(ahead.from[p] + line * kLineBytes, 0, 2);
#pragma GCC unroll 8
        for (int i = 0; i < kQuadsAtOnce; ++i) {
            if constexpr (T == kWideTile && !kFromMemory)  // one token's next line with every quad
                __builtin_prefetch(first + (begin % T + i) * stride + 4 * begin + kLineBytes);
            Bytes weights[P][kParts];
            for (int p = 0; p < P; ++p) {
                const uint8_t* quad = panels[p] + i * kQuadBytes;
                __builtin_prefetch(quad + (kFromMemory ? kAhead : kSoon));
                for (int part = 0; part < kParts; ++part) {
                    weights[p][part] = load<Bytes>(quad + part * 4 * kLanes);
                    if constexpr (kOffset != 0) weights[p][part] ^= kOffset;
                }
            }
            for (int t = 0; t < T; ++t) {
                const I values = places.quad(t, 4 * i);
                for (int p = 0; p < P; ++p)
                    for (int part = 0; part < kParts; ++part)
                        sums[p][t][part] = dot_int8(sums[p][t][part], weights[p][part], values);
            }
        }
        places.advance(4 * kQuadsAtOnce);
        for (const uint8_t*& panel : panels) panel += kQuadsAtOnce * kQuadBytes;
    }
}

// Asks for the outputs of T tokens, which lie far apart, while their sums are made.
template <int T, int P>
inline void ask_for_outputs(int64_t token, const Panel* panels) {
    if constexpr (kAsksForOutputs)
        for (int t = 0; t < T; ++t)
            for (int p = 0; p < P; ++p) __builtin_prefetch(panels[p].y + (token + t) * panels[p].stride, 1);
}

template <int T, int P>
[[gnu::noinline]] void multiply_int8(const Codes& x, int64_t token, const Panel* panels) {
    I sums[P][T][kParts];
    const uint8_t* w[P];
    for (int p = 0; p < P; ++p) {
        w[p] = panels[p].codes;
        for (int t = 0; t < T; ++t)
            for (int part = 0; part < kParts; ++part) sums[p][t][part] = broadcast(x.starts[token + t]);
    }
    add_int8<T, P, kWeightOffset, true>(sums, x.row(token), x.stride, w, x.width);
    for (int p = 0; p < P; ++p) finish(sums[p], x, token, panels[p]);
}

template <int T>
[[gnu::noinline]] void multiply_int4(const Codes& x, int64_t token, const Panel& panel) {
    I sums[T][kParts] = {};
    const int8_t* codes[T];
    const int64_t groups = x.width / kGroupColumns;
    for (int t = 0; t < T; ++t) codes[t] = x.row(token + t);
    for (int64_t group = 0; group < groups; ++group) {
        Group dots[T][kGroupSums][kParts];
        start_group(x, codes, group, dots);
        dot_group(codes, group, panel.codes + group * 256, offset_levels, dots);
        I multipliers[kParts];
        unpack_multipliers(panel.multipliers + group * 8, multipliers);
        for (int t = 0; t < T; ++t)
            for (int sum = 0; sum < kGroupSums; ++sum)
                for (int part = 0; part < kParts; ++part)
                    sums[t][part] = group_finish(sums[t][part], dots[t][sum][part], multipliers[part]);
    }
    finish(sums, x, token, panel);
}

template <int T>
[[gnu::noinline]] void multiply_unpacked(const Codes& x, int64_t token, const Panel& panel) {
    ask_for_outputs<T, 1>(token, &panel);
    I sums[T][kParts];
    for (int t = 0; t < T; ++t)
        for (int part = 0; part < kParts; ++part) sums[t][part] = broadcast(x.starts[token + t]);
    Places<T> places(x.row(token), x.stride);
    const int64_t groups = x.width / kGroupColumns;
    for (int64_t group = 0; group < groups; ++group) {
        I multipliers[kParts];
        unpack_multipliers(panel.multipliers + group * 8, multipliers);
        for (int part = 0; part < kParts; ++part) {
            const Scaling scaled(multipliers[part]);
            for (int j = 0; j < kGroupQuads / 2; ++j) {
                const uint8_t* nibbles = panel.codes + group * 256 + j * kQuadBytes + part * 4 * kLanes;
                __builtin_prefetch(nibbles + kAhead);
                const Bytes both = (Bytes)pin(load<I>(nibbles));
                for (int half = 0; half < 2; ++half) {
                    const Bytes weights = scaled((half == 0 ? both : (Bytes)((Pairs)both >> 4)) & 15);
                    for (int t = 0; t < T; ++t)
                        sums[t][part] = pin(dot_int8(sums[t][part], weights, places.quad(t, half * 16 + 4 * j)));
                }
            }
        }
        places.advance(kGroupColumns);
    }
    finish(sums, x, token, panel);
}

// A slice of the columns of `count` panels, and the sums of the slices before it: [tokens][count][16]. Also where the
// next slice lies, so many cache lines of each panel, and among how many passes they are shared out.
struct Slice {
    const uint8_t* codes[kBlockPanels];
    int64_t count, first, columns;
    int32_t* sums;
    const uint8_t* next[kBlockPanels];
    int64_t next_lines, passes;

    // What the pass of these tokens asks for.
    Ahead share(int64_t token, int64_t p, int panels_of_pass) const {
        const int64_t most = (next_lines + passes - 1) / passes, begin = token / kWideTile * most;
        Ahead result;
        result.lines = larger<int64_t>(0, smaller(most, next_lines - begin));
        for (int i = 0; i < panels_of_pass; ++i) result.from[i] = next[p + i] + begin * kLineBytes;
        return result;
    }
};

// sums += T tokens times the levels of one panel.
template <int T>
inline void add_slice(I (&sums)[T][kParts], const Codes& x, int64_t token, const Slice& slice, const uint8_t* levels,
                      const Ahead& ahead) {
    const int64_t groups = slice.columns / kGroupColumns, each = (ahead.lines + groups - 1) / groups;
    add_levels<T>(sums, x, token, slice.first / kGroupColumns, groups, levels, [&](int64_t group) {
        for (int64_t line = group * each; line < smaller(ahead.lines, (group + 1) * each); ++line)
            __builtin_prefetch(ahead.from[0] + line * kLineBytes, 0, 2);
    });
}

// T tokens with panels p .. p + P - 1 of the block. Codes of Int8 panels are used as they lie.
template <bool kInt4, int T, int P>
[[gnu::noinline]] void multiply_slice(const Codes& x, int64_t token, const Slice& slice, int64_t p,
                                      const Panel* panels) {
    I sums[P][T][kParts];
    int32_t* kept = slice.sums + (token * slice.count + p) * kPanelRows;
    for (int t = 0; t < T; ++t)
        for (int i = 0; i < P; ++i)
            for (int part = 0; part < kParts; ++part)
                sums[i][t][part] = slice.first == 0
                                       ? broadcast(x.starts[token + t])
                                       : load<I>(kept + (t * slice.count + i) * kPanelRows + part * kLanes);
    const bool is_last = slice.first + slice.columns == x.width;
    if (is_last) ask_for_outputs<T, P>(token, panels + p);
    const Ahead ahead = slice.share(token, p, P);
    if constexpr (kInt4 && kUnpacksLevels)
        add_slice(sums[0], x, token, slice, slice.codes[p], ahead);
    else
        add_int8<T, P, kInt4 ? 0 : kWeightOffset, !kInt4>(sums, x.row(token) + slice.first, x.stride, slice.codes + p,
                                                          slice.columns, ahead);
    if (is_last) {
        for (int i = 0; i < P; ++i) finish(sums[i], x, token, panels[p + i]);
        return;
    }
    for (int t = 0; t < T; ++t)
        for (int i = 0; i < P; ++i)
            for (int part = 0; part < kParts; ++part)
                store(kept + (t * slice.count + i) * kPanelRows + part * kLanes, sums[i][t][part]);
}

// Where the slice of a panel from a column on lies; multipliers, which are few, are asked for at once.
template <bool kInt4>
inline const uint8_t* ask_for(const Panel& panel, int64_t column, int64_t columns) {
    if constexpr (!kInt4) return panel.codes + column * kPanelRows;
    const uint8_t* multipliers = panel.multipliers + column / kGroupColumns * 8;
    for (int64_t byte = 0; byte < columns / kGroupColumns * 8; byte += kLineBytes)
        __builtin_prefetch(multipliers + byte, 0, 2);
    return panel.codes + column * kPanelRows / 2;
}

// All tokens with a block of panels, slice by slice. `following` is the block after it.
template <bool kInt4>
void multiply_block(const Codes& x, int64_t tokens, const Panel* panels, const Panel* following, int64_t count) {
    Slice slice{{}, count, 0, 0, scratch<int32_t>(Slot::kSums, tokens * count * kPanelRows), {}, 0, 0};
    slice.passes = (tokens + kWideTile - 1) / kWideTile;
    uint8_t* unpacked = scratch<uint8_t>(Slot::kPanel, kBlockPanels * kPanelBytes);
    for (; slice.first < x.width; slice.first += slice.columns) {
        slice.columns = smaller(kSliceColumns, x.width - slice.first);
        const int64_t end = slice.first + slice.columns, next = end < x.width ? end : 0;
        const int64_t next_columns = smaller(kSliceColumns, x.width - next);
        slice.next_lines = next_columns * kPanelRows / (kInt4 ? 2 : 1) / kLineBytes;
        for (int64_t p = 0; p < count; ++p) {
            uint8_t* own = unpacked + p * kPanelBytes;
            if (kInt4) unpack(panels[p], slice.first, slice.columns, own);
            slice.next[p] = ask_for<kInt4>(next == 0 ? following[p] : panels[p], next, next_columns);
            slice.codes[p] = kInt4 ? own : panels[p].codes + slice.first * kPanelRows;
        }
        for_each_tile<kWideTile>(tokens, [&]<int T>(int64_t token) {
            int64_t p = 0;
            for (; p + kWidePanels <= count; p += kWidePanels)
                multiply_slice<kInt4, T, kWidePanels>(x, token, slice, p, panels);
            for (; p < count; ++p) multiply_slice<kInt4, T, 1>(x, token, slice, p, panels);
        });
    }
}

// Panels first <= i < last of a weight; y points at the outputs of the first one.
struct Panels {
    const Weight& weight_ND;
    int64_t width, first, last;
    float* y;
    int64_t stride;

    Panel at(int64_t index) const {
        const bool is_int4 = weight_ND.format == Format::kInt4;
        const int64_t bytes = is_int4 ? width * kPanelRows / 2 : width * kPanelRows;
        return {static_cast<const uint8_t*>(weight_ND.codes) + index * bytes,
                is_int4 ? weight_ND.multipliers + index * (width / kGroupColumns) * 8 : nullptr,
                weight_ND.scales + index * kPanelRows,
                y + (index - first) * kPanelRows,
                stride,
                smaller(kPanelRows, weight_ND.rows - index * kPanelRows)};
    }
};

// A block of tokens with one block of panels after the other.
template <bool kInt4>
[[maybe_unused]] void multiply_blocks(const Codes& x, int64_t tokens, const Panels& all) {
    const int64_t step = larger<int64_t>(8 * kWideTile, kTokenBytes / x.stride);
    for (int64_t token = 0; token < tokens; token += step) {
        Panels part = all;
        part.y += token * all.stride;
        for (int64_t start = all.first; start < all.last; start += kBlockPanels) {
            const int64_t count = smaller<int64_t>(kBlockPanels, all.last - start);
            Panel panels[kBlockPanels], following[kBlockPanels];
            for (int64_t i = 0; i < count; ++i) {
                panels[i] = part.at(start + i);
                following[i] = part.at(smaller(start + count + i, all.last - 1));
            }
            multiply_block<kInt4>(from_row(x, token), smaller(step, tokens - token), panels, following, count);
        }
    }
}

// Panel by panel, and two at a time of int8 codes for a whole tile of tokens.
void multiply_few(const Codes& x, int64_t tokens, const Panels& all) {
    const bool is_int4 = all.weight_ND.format == Format::kInt4;
    int64_t i = all.first;
    if (!is_int4 && tokens == kWideTile)
        for (; i + kWidePanels <= all.last; i += kWidePanels) {
            const Panel panels[] = {all.at(i), all.at(i + kWidePanels - 1)};
            multiply_int8<kWideTile, kWidePanels>(x, 0, panels);
        }
    for (; i < all.last; ++i) {
        const Panel panel = all.at(i);
        if constexpr (kFullTile > 0) {
            if (is_int4 && tokens > kNibbleTile) {
                for_each_tile<kFullTile>(tokens, [&]<int T>(int64_t token) { multiply_unpacked<T>(x, token, panel); });
                continue;
            }
        }
        if (is_int4)
            for_each_tile<kNibbleTile>(tokens, [&]<int T>(int64_t token) { multiply_int4<T>(x, token, panel); });
        else
            for_each_tile<kWideTile>(tokens, [&]<int T>(int64_t token) { multiply_int8<T, 1>(x, token, &panel); });
    }
}

[[maybe_unused]] void multiply_on_tiles(const Codes& x, int64_t tokens, const Panels& all) {
    constexpr int64_t kMostPanels = 8;
    const int64_t bytes = kPanelRows * x.width, block = larger<int64_t>(1, smaller(kMostPanels, kTileBlock / bytes));
    uint8_t* unpacked = scratch<uint8_t>(Slot::kPanel, block * bytes);
    for (int64_t start = all.first; start < all.last; start += block) {
        const int64_t count = smaller(block, all.last - start);
        Panel panels[kMostPanels];
        for (int64_t i = 0; i < count; ++i) {
            panels[i] = all.at(start + i);
            if (panels[i].multipliers == nullptr) continue;
            unpack(panels[i], 0, x.width, unpacked + i * bytes);
            panels[i].codes = unpacked + i * bytes;
        }
        multiply_tiles(x, tokens, panels, count);
    }
}

}  // namespace

void multiply_codes(const Codes& x, int64_t tokens, const Weight& weight_ND, int64_t first, int64_t last, float* y,
                    int64_t stride) {
    const Panels all{weight_ND, x.width, first, last, y, stride};
    if (weight_ND.format == Format::kGroup4) return multiply_groups(x, tokens, weight_ND, first, last, y, stride);
    const bool is_int4 = weight_ND.format == Format::kInt4;
    if (tokens < (is_int4 || kHasTiles ? kManyCodes : kWideTile + 1)) return multiply_few(x, tokens, all);
    if constexpr (kHasTiles)
        multiply_on_tiles(x, tokens, all);
    else if (is_int4)
        multiply_blocks<true>(x, tokens, all);
    else
        multiply_blocks<false>(x, tokens, all);
}

}  // namespace twofold::TWOFOLD_ISA
