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

constexpr int64_t kQuadBytes = 64;  // 16 rows of 4 codes
constexpr int kGroupQuads = 8;
constexpr int64_t kAhead = 4096;  // bytes; the hardware looks ahead within a page of 4096 only

typedef uint16_t Pairs __attribute__((vector_size(4 * kLanes)));

inline I load_quad(const int8_t* codes) {
    int32_t quad;
    __builtin_memcpy(&quad, codes, 4);
    return broadcast(quad);
}

// Where T tokens have got to. Four of them share a pointer, or pointers would wait in vectors; what they lie apart is
// kept from the compiler, which would make four of one.
template <int T>
struct Places {
    const int8_t* fours[(T + 3) / 4];
    int64_t stride, three;

    Places(const int8_t* first, int64_t apart) : stride(apart), three(3 * apart) {
        for (int t = 0; t < T; t += 4) fours[t / 4] = first + t * stride;
        for (const int8_t*& four : fours) asm("" : "+r"(four));
        asm("" : "+r"(three));
    }
    // A quad of token t.
    I quad(int t, int64_t bytes) const {
        return load_quad(fours[t / 4] + (t % 4 == 3 ? three : t % 4 * stride) + bytes);
    }
    void advance(int64_t bytes) {
        for (const int8_t*& four : fours) four += bytes;
    }
};

// body.operator()<T>(token) for tiles of kMost tokens, and for one of those left.
template <int kMost, class Body>
inline void for_each_tile(int64_t tokens, const Body& body, int64_t token = 0) {
    for (; token + kMost <= tokens; token += kMost) body.template operator()<kMost>(token);
    if constexpr (kMost > 1) {
        if (token < tokens) for_each_tile<kMost - 1>(tokens, body, token);
    }
}

// What the sums of T tokens with a group of levels + kLevelOffset begin with.
template <int T>
inline void start_group(const Codes& x, const int8_t* const (&codes)[T], int64_t group,
                        Group (&dots)[T][kGroupSums][kParts]) {
    for (int t = 0; t < T; ++t)
        for (int sum = 0; sum < kGroupSums; ++sum)
            for (int part = 0; part < kParts; ++part)
                dots[t][sum][part] = (Group)load_quad(codes[t] + x.width + 4 * (group * kGroupSums + sum));
}

// dots += those of T tokens with a group of nibbles, which `spread` turns into unsigned bytes; in two halves if kSums
// is.
template <int T, int kSums, class Spread>
[[gnu::always_inline]] inline void dot_group(const int8_t* const (&codes)[T], int64_t group, const uint8_t* nibbles,
                                             const Spread& spread, Group (&dots)[T][kSums][kParts]) {
#pragma GCC unroll 1  // unrolled, GCC moves all loads to the front and spills them
    for (int j = 0; j < kGroupQuads / 2; ++j) {
        const uint8_t* both = nibbles + j * kQuadBytes;
        __builtin_prefetch(both + kAhead);
        for (int half = 0; half < 2; ++half) {
            Bytes bytes[kParts];
            for (int part = 0; part < kParts; ++part) {
                const Bytes two = load<Bytes>(both + part * 4 * kLanes);
                bytes[part] = spread((half == 0 ? two : (Bytes)((Pairs)two >> 4)) & 15);
            }
            for (int t = 0; t < T; ++t) {
                const I values = load_quad(codes[t] + group * kGroupColumns + half * 16 + 4 * j);
                Group* dot = dots[t][half % kSums];
                for (int part = 0; part < kParts; ++part) dot[part] = pin(group_dot(dot[part], bytes[part], values));
            }
        }
    }
}

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
