// Products of int8 activation codes with Int8 and Int4 panels (layouts: ops/packed.py).
//
//     y[t, n] = float(sum over d of code[t, d] * integer[n, d]) * (scale_t * scale_n)
//
// The sum is exact in int32, hence the same on every ISA and in every order; the float operations are those of the
// reference, so results are bit-equal to it. Scalar version of one sum, Int4:
//
//     for each group g: dot = sum over its columns of (nibble - 8) * code;  sum += m[g] * dot
//
// Few tokens: nibbles are used as they lie, a group's sum is corrected by -8 * sum(codes) and multiplied by m once.
// From kUnpackFrom tokens on a panel is unpacked to m * q first, once for all of them.
#include "panels.h"
#include "scratch.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kWideTile = kLanes == 16 ? 8 : 4;  // tokens per tile: accumulators fill the registers but a few
constexpr int64_t kUnpackTokens = kHasTiles ? 8 : kUnpackFrom;  // with tiles reckoned from cycles, not measured
constexpr int64_t kQuadBytes = 64;                              // 16 rows of 4 codes
constexpr int64_t kBlockBytes = 128 * 1024;                     // unpacked panels kept in the second-level cache
constexpr int kGroupQuads = 8;

typedef uint16_t Pairs __attribute__((vector_size(4 * kLanes)));

inline I load_quad(const int8_t* codes) {
    int32_t quad;
    __builtin_memcpy(&quad, codes, 4);
    return broadcast(quad);
}

// T tokens times P panels of int8 codes that already carry kWeightOffset (kUnpacked) or not. Two panels share each
// quad of activations once it is spread over a register: one panel alone is bound by those loads.
template <int T, int P, bool kUnpacked>
void multiply_int8(const Codes& x, int64_t token, const Panel* panels) {
    I sums[P][T][kParts];
    const int8_t* codes[T];
    for (int t = 0; t < T; ++t) {
        codes[t] = x.codes + (token + t) * x.width;
        for (int p = 0; p < P; ++p)
            for (int part = 0; part < kParts; ++part) sums[p][t][part] = broadcast(x.starts[token + t]);
    }
    for (int64_t quad = 0; quad < x.width / 4; ++quad) {
        Bytes w[P][kParts];
        for (int p = 0; p < P; ++p)
            for (int part = 0; part < kParts; ++part) {
                w[p][part] = load<Bytes>(panels[p].codes + quad * kQuadBytes + part * 4 * kLanes);
                if constexpr (!kUnpacked && kWeightOffset != 0) w[p][part] ^= kWeightOffset;
            }
        for (int t = 0; t < T; ++t) {
            const I values = load_quad(codes[t] + 4 * quad);
            for (int p = 0; p < P; ++p)
                for (int part = 0; part < kParts; ++part)
                    sums[p][t][part] = dot_int8(sums[p][t][part], w[p][part], values);
        }
    }
    for (int p = 0; p < P; ++p) finish(sums[p], x, token, panels[p]);
}

template <int T>
void multiply_int4(const Codes& x, int64_t token, const Panel& panel) {
    I sums[T][kParts] = {};
    const int8_t* codes[T];
    const int64_t groups = x.width / kGroupColumns;
    for (int t = 0; t < T; ++t) codes[t] = x.codes + (token + t) * x.width;
    const int32_t* starts = x.group_starts + token * groups;
    for (int64_t group = 0; group < groups; ++group) {
        Group dots[T][kParts];
        for (int t = 0; t < T; ++t)
            for (int part = 0; part < kParts; ++part) dots[t][part] = (Group)broadcast(starts[t * groups + group]);
#pragma GCC unroll 1  // unrolled, GCC moves all loads to the front and spills them
        for (int j = 0; j < kGroupQuads / 2; ++j) {
            const uint8_t* both = panel.codes + group * 256 + j * kQuadBytes;
            for (int half = 0; half < 2; ++half) {
                Bytes nibbles[kParts];
                for (int part = 0; part < kParts; ++part) {
                    const Bytes bytes = load<Bytes>(both + part * 4 * kLanes);
                    nibbles[part] = (half == 0 ? bytes : (Bytes)((Pairs)bytes >> 4)) & 15;
                }
                for (int t = 0; t < T; ++t) {
                    const I values = load_quad(codes[t] + group * kGroupColumns + half * 16 + 4 * j);
                    for (int part = 0; part < kParts; ++part)
                        dots[t][part] = group_dot(dots[t][part], nibbles[part], values);
                }
            }
        }
        I multipliers[kParts];
        unpack_multipliers(panel.multipliers + group * 8, multipliers);
        for (int t = 0; t < T; ++t)
            for (int part = 0; part < kParts; ++part)
                sums[t][part] = group_finish(sums[t][part], dots[t][part], multipliers[part]);
    }
    finish(sums, x, token, panel);
}

// m * q of four columns of kLanes rows. Both bytes of a 16-bit lane at once: m times (low + 256 high) carries nothing
// from one to the other once 128 - 8 m is added to each, for then they lie between 64 and 192.
inline Bytes scale_codes(Bytes nibbles, Pairs m) {
    const Bytes offset_by_128 = (Bytes)((Pairs)nibbles * m + (128 - 8 * m) * 257);
    return kHasTiles || kWeightOffset == 0 ? offset_by_128 ^ 128 : offset_by_128;
}

void unpack_panel(const uint8_t* codes, const uint8_t* stored, int64_t groups, uint8_t* unpacked) {
    for (int64_t group = 0; group < groups; ++group, codes += 256, unpacked += 512) {
        I multipliers[kParts];
        unpack_multipliers(stored + group * 8, multipliers);
        for (int part = 0; part < kParts; ++part) {
            const Pairs m = (Pairs)((multipliers[part] & 0xFFFF) | (multipliers[part] << 16));
            for (int j = 0; j < kGroupQuads / 2; ++j) {
                const int64_t place = j * kQuadBytes + part * 4 * kLanes;
                const Bytes both = load<Bytes>(codes + place);
                store(unpacked + place, scale_codes(both & 15, m));
                store(unpacked + 256 + place, scale_codes((Bytes)((Pairs)both >> 4) & 15, m));
            }
        }
    }
}

enum class Kind { kInt8, kUnpacked, kInt4 };

// T tokens with `count` panels.
template <Kind kKind, int T>
void multiply_tile(const Codes& x, int64_t token, const Panel* panels, int64_t count) {
    int64_t i = 0;
    if constexpr (kKind == Kind::kInt4) {
        for (; i < count; ++i) multiply_int4<T>(x, token, panels[i]);
    } else {
        if constexpr (T == kWideTile && kLanes == 16)
            for (; i + 2 <= count; i += 2) multiply_int8<T, 2, kKind == Kind::kUnpacked>(x, token, panels + i);
        for (; i < count; ++i) multiply_int8<T, 1, kKind == Kind::kUnpacked>(x, token, panels + i);
    }
}

// All tokens with `count` panels of the same kind; the panels stay in cache while the tokens pass.
template <Kind kKind>
void multiply_block(const Codes& x, int64_t tokens, const Panel* panels, int64_t count) {
    int64_t token = 0;
    for (; token + kWideTile <= tokens; token += kWideTile) multiply_tile<kKind, kWideTile>(x, token, panels, count);
    if constexpr (kWideTile > 4)
        for (; token + 4 <= tokens; token += 4) multiply_tile<kKind, 4>(x, token, panels, count);
    for (; token + 2 <= tokens; token += 2) multiply_tile<kKind, 2>(x, token, panels, count);
    for (; token < tokens; ++token) multiply_tile<kKind, 1>(x, token, panels, count);
}

}  // namespace

void multiply_codes(const Codes& x, int64_t tokens, const Weight& weight_ND, int64_t first, int64_t last, float* y,
                    int64_t stride) {
    constexpr int64_t kMostPanels = 8;
    const bool is_int4 = weight_ND.format == Format::kInt4, many = tokens >= kUnpackTokens, unpacks = is_int4 && many;
    const int64_t groups = x.width / kGroupColumns, unpacked_bytes = 16 * x.width;
    const int64_t panel_bytes = is_int4 ? unpacked_bytes / 2 : unpacked_bytes;
    const int64_t block =
        tokens == 1 ? 1 : larger<int64_t>(1, smaller<int64_t>(kMostPanels, kBlockBytes / unpacked_bytes));
    const uint8_t* codes = static_cast<const uint8_t*>(weight_ND.codes);
    uint8_t* unpacked = unpacks ? scratch<uint8_t>(Slot::kPanel, block * unpacked_bytes) : nullptr;
    for (int64_t start = first; start < last; start += block) {
        const int64_t count = smaller(block, last - start);
        Panel panels[kMostPanels];
        for (int64_t i = 0; i < count; ++i) {
            const int64_t panel = start + i;
            panels[i] = Panel{codes + panel * panel_bytes,
                              is_int4 ? weight_ND.multipliers + panel * groups * 8 : nullptr,
                              weight_ND.scales + panel * 16,
                              y + (panel - first) * 16,
                              stride,
                              smaller<int64_t>(16, weight_ND.rows - panel * 16)};
            if (!unpacks) continue;
            unpack_panel(panels[i].codes, panels[i].multipliers, groups, unpacked + i * unpacked_bytes);
            panels[i].codes = unpacked + i * unpacked_bytes;
        }
        if constexpr (kHasTiles) {
            if (many) {
                multiply_tiles(x, tokens, panels, count);
                continue;
            }
        }
        if (unpacks)
            multiply_block<Kind::kUnpacked>(x, tokens, panels, count);
        else if (is_int4)
            multiply_block<Kind::kInt4>(x, tokens, panels, count);
        else
            multiply_block<Kind::kInt8>(x, tokens, panels, count);
    }
}

}  // namespace twofold::TWOFOLD_ISA
