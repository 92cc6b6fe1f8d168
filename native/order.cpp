#include "order.h"

#include <algorithm>

namespace twofold {

void put_first(uint64_t* keys, int64_t wanted, int64_t count) {
    std::nth_element(keys, keys + std::min(wanted, count), keys + count);
    std::sort(keys, keys + std::min(wanted, count));
}

int64_t split(uint64_t* keys, int64_t count, const float* weights, double limit, bool beyond) {
    int64_t first = 0, last = count;  // the key is in [first, last)
    double before = 0.0;
    while (last - first > 1) {
        const int64_t middle = first + (last - first) / 2;
        std::nth_element(keys + first, keys + middle, keys + last);
        double sum = before;
        for (int64_t i = first; i < middle; ++i) sum += static_cast<double>(weights[keys[i] & 0xFFFFFFFFu]);
        if (beyond ? sum > limit : sum >= limit) {
            last = middle;
        } else {
            first = middle;
            before = sum;
        }
    }
    return first;
}

}  // namespace twofold
