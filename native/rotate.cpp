// Rotary position embedding: each pair (a, b) of a head becomes (a cos - b sin, a sin + b cos).
//
// Pair i is elements (2i, 2i + 1) when interleaved, (i, i + K / 2) otherwise. The loops are the scalar version; their
// iterations are independent and the compiler makes vectors of them.
#include "kernels.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

template <bool kInterleaved>
void rotate_head(const float* __restrict x, const float* __restrict cosine, const float* __restrict sine, int64_t half,
                 float* __restrict y) {
    for (int64_t i = 0; i < half; ++i) {
        const int64_t first = kInterleaved ? 2 * i : i, second = kInterleaved ? 2 * i + 1 : i + half;
        const float a = x[first], b = x[second];
        y[first] = a * cosine[i] - b * sine[i];
        y[second] = a * sine[i] + b * cosine[i];
    }
}

}  // namespace

void rotate(const Heads& x_THK, const float* cosine_TK2, const float* sine_TK2, bool interleaved, float* y_THK) {
    const int64_t half = x_THK.size / 2, token_size = x_THK.heads * x_THK.size;
    parallel(x_THK.tokens, 1 + 8192 / larger<int64_t>(1, token_size), [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t)
            for (int64_t h = 0; h < x_THK.heads; ++h) {
                const float* x = x_THK.data + t * x_THK.token_stride + h * x_THK.head_stride;
                float* y = y_THK + t * token_size + h * x_THK.size;
                if (interleaved)
                    rotate_head<true>(x, cosine_TK2 + t * half, sine_TK2 + t * half, half, y);
                else
                    rotate_head<false>(x, cosine_TK2 + t * half, sine_TK2 + t * half, half, y);
            }
    });
}

}  // namespace twofold::TWOFOLD_ISA
