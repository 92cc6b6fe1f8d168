// Peak of the products of codes: independent chains on registers, as many as hide their latency.
#include "kernels.h"
#include "panels.h"
#include "unpack.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {

#if defined(__x86_64__)
#define TWOFOLD_OPAQUE(value) asm volatile("" : "+v"(value))  // or the compiler would multiply instead of adding
#elif defined(__aarch64__)
#define TWOFOLD_OPAQUE(value) asm volatile("" : "+w"(value))
#else
#define TWOFOLD_OPAQUE(value) asm volatile("" : "+m"(value))
#endif

namespace {

constexpr int kChains = kWeightOffset != 0 ? 12 : 6;  // VNNI takes four or five cycles

}  // namespace

int64_t measure_int8(int64_t rounds) {
    if constexpr (kHasTiles) return measure_tiles(rounds);
    I sums[kChains] = {};
    Bytes weights = {};
    weights += 3;
    I codes = broadcast(0x01020304);
    for (int i = 0; i < kChains; ++i) TWOFOLD_OPAQUE(sums[i]);  // or equal chains would be merged
    for (int64_t round = 0; round < rounds; ++round) {
        for (int i = 0; i < kChains; ++i) {
            TWOFOLD_OPAQUE(codes);
            sums[i] = dot_int8(sums[i], weights, codes);
        }
    }
    for (int i = 0; i < kChains; ++i) TWOFOLD_OPAQUE(sums[i]);
    return rounds * kChains * kLanes * 4 * 2;
}

int64_t measure_int4(int64_t rounds) {
    if constexpr (!kUnpacksLevels) return measure_int8(rounds);
    I sums[kChains] = {}, codes = broadcast(0x01020304), multipliers = broadcast(3);
    Group groups[kChains] = {};
    Bytes levels = {};
    levels += 3;
    for (int64_t round = 0; round < rounds; round += kGroupQuads) {
        for (int quad = 0; quad < kGroupQuads; ++quad)
            for (int i = 0; i < kChains; ++i) {
                TWOFOLD_OPAQUE(codes);
                groups[i] = group_dot(groups[i], levels, codes);
                TWOFOLD_OPAQUE(groups[i]);
            }
        for (int i = 0; i < kChains; ++i) sums[i] = group_finish(sums[i], groups[i], multipliers);
    }
    for (int i = 0; i < kChains; ++i) TWOFOLD_OPAQUE(sums[i]);
    return rounds * kChains * kLanes * 4 * 2;
}

}  // namespace twofold::TWOFOLD_ISA
