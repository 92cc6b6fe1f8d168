// Peak of the int8 dot or tile product: independent chains on registers, as many as hide its latency.
#include "kernels.h"
#include "panels.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {

#if defined(__x86_64__)
#define TWOFOLD_OPAQUE(value) asm volatile("" : "+v"(value))  // or the compiler would multiply instead of adding
#elif defined(__aarch64__)
#define TWOFOLD_OPAQUE(value) asm volatile("" : "+w"(value))
#else
#define TWOFOLD_OPAQUE(value) asm volatile("" : "+m"(value))
#endif

int64_t measure_int8(int64_t rounds) {
    if constexpr (kHasTiles) return measure_tiles(rounds);
    constexpr int kChains = kLanes == 16 ? 12 : 6;
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

}  // namespace twofold::TWOFOLD_ISA
