// Keys in order, as far as needed: for kernels, which may not use the standard library's templates (vec.h).
#pragma once

#include <cstdint>

namespace twofold {

// The `wanted` smallest of `count` keys come first, ascending; those behind them are left in any order.
void put_first(uint64_t* keys, int64_t wanted, int64_t count);

// The lower half of a key is the place of its weight. In ascending order of keys their running sum comes to the limit,
// or goes beyond it, at a key: that one is put behind all smaller ones and before all larger ones. Returns where it is,
// which is the last place when the limit is not reached. count > 0.
int64_t split(uint64_t* keys, int64_t count, const float* weights, double limit, bool beyond);

}  // namespace twofold
