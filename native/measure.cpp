// Peak of the int8 dot product: independent chains on registers, as many as hide its latency.
#include "kernels.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {

int64_t measure_int8(int64_t rounds) {
    constexpr int kChains = kLanes == 16 ? 16 : 8;
    I sums[kChains] = {};
    Bytes weights = {};
    weights += 3;
    I codes = broadcast(0x01020304);
    for (int64_t round = 0; round < rounds; ++round) {
        for (int i = 0; i < kChains; ++i) sums[i] = dot_int8(sums[i], weights, codes);
        asm volatile("" : "+m"(weights), "+m"(codes));  // or the compiler would multiply instead of adding
    }
    for (int i = 0; i < kChains; ++i) asm volatile("" ::"m"(sums[i]));
    return rounds * kChains * kLanes * 4 * 2;
}

}  // namespace twofold::TWOFOLD_ISA
