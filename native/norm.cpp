// RMS norm of every head of every token (a row of x_TD is one head), and queries scaled by their token.
//
//     norm: y = x / sqrt(mean(x^2) + epsilon) * weight;   scale_heads: y_THK = x_THK * factor_T
//
// Scalar version: lane[k % kLanes] += x[k] * x[k], lanes added by one tree; everything in float32.
#include "kernels.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

void norm_row(const float* x, int64_t size, const float* weight, float epsilon, float* y) {
    F squares{};
    int64_t k = 0;
    for (; k + kLanes <= size; k += kLanes) squares = fma(load_f32(x + k), load_f32(x + k), squares);
    if (k < size) {
        const F rest = load_some(x + k, size - k);
        squares = fma(rest, rest, squares);
    }
    const float scale = 1.0f / __builtin_sqrtf(sum_lanes(squares) / static_cast<float>(size) + epsilon);
    if (weight == nullptr)
        for (k = 0; k < size; ++k) y[k] = x[k] * scale;
    else
        for (k = 0; k < size; ++k) y[k] = x[k] * scale * weight[k];
}

// body(input head, output head, token) for every head, over the threads when there is much to do.
template <class Body>
void for_each_head(const Heads& x, float* y, const Body& body) {
    const int64_t token_size = larger<int64_t>(1, x.heads * x.size);
    parallel(x.tokens, 1 + 8192 / token_size, [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t)
            for (int64_t h = 0; h < x.heads; ++h)
                body(x.data + t * x.token_stride + h * x.head_stride, y + (t * x.heads + h) * x.size, t);
    });
}

}  // namespace

void norm(const Heads& x_THK, const float* weight_K, float epsilon, float* y_THK) {
    for_each_head(x_THK, y_THK,
                  [&](const float* x, float* y, int64_t) { norm_row(x, x_THK.size, weight_K, epsilon, y); });
}

void scale_heads(const Heads& x_THK, const float* factors_T, float* y_THK) {
    for_each_head(x_THK, y_THK, [&](const float* x, float* y, int64_t t) {
        for (int64_t k = 0; k < x_THK.size; ++k) y[k] = x[k] * factors_T[t];
    });
}

}  // namespace twofold::TWOFOLD_ISA
