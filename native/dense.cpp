// Products of float32 activations with float32, bf16 or float8 rows.
//
//     y[t, n] = sum over d of x[t, d] * w[n, d], of float8 times the row's scale
//
// Every sum has kLanes accumulators along d, added at the end by one tree, whatever the number of tokens and rows
// beside it: a row of a batch is bit-equal to that row alone. Scalar version: lane[d % kLanes] += x[d] * w[d].
#include "products.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

struct F32Row {
    using Type = float;
    static constexpr bool kHasScale = false;
    static F load(const float* from) { return load_f32(from); }
    static F load_some(const float* from, int64_t count) { return TWOFOLD_ISA::load_some(from, count); }
};
struct Bf16Row {
    using Type = uint16_t;
    static constexpr bool kHasScale = false;
    static F load(const uint16_t* from) { return load_bf16(from); }
    static F load_some(const uint16_t* from, int64_t count) { return load_bf16_some(from, count); }
};
struct Fp8Row {
    using Type = uint8_t;
    static constexpr bool kHasScale = true;
    static F load(const uint8_t* from) { return load_fp8(from); }
    static F load_some(const uint8_t* from, int64_t count) {
        uint8_t buffer[kLanes] = {};
        for (int i = 0; i < count; ++i) buffer[i] = from[i];
        return load_fp8(buffer);
    }
};

// T tokens times R rows, from row n on; rows beyond the last repeat it and are not written.
// Two vectors of a row at a time: rows are often a multiple of 4096 bytes apart and share the sets of the first-level
// cache, so that a line would be gone before its second half is wanted.
template <int T, int R, class E>
void multiply_tile(const Rows& x_TD, int64_t token, const Weight& weight_ND, int64_t n, float* y, int64_t stride) {
    constexpr int kSums = (T * R + kLanes - 1) / kLanes * kLanes;
    const int64_t columns = x_TD.columns;
    const float* x[T];
    const typename E::Type* w[R];
    for (int t = 0; t < T; ++t) x[t] = x_TD.data + (token + t) * x_TD.stride;
    for (int r = 0; r < R; ++r)
        w[r] = static_cast<const typename E::Type*>(weight_ND.codes) + smaller(n + r, weight_ND.rows - 1) * columns;
    F sums[kSums] = {};
    int64_t d = 0;
    for (; d + 2 * kLanes <= columns; d += 2 * kLanes) {
        for (int64_t half = d; half < d + 2 * kLanes; half += kLanes) {
            F values[T];
            for (int t = 0; t < T; ++t) values[t] = load_f32(x[t] + half);
            for (int r = 0; r < R; ++r) {
                const F row = E::load(w[r] + half);
                for (int t = 0; t < T; ++t) sums[r * T + t] = fma_in_order(row, values[t], sums[r * T + t]);
            }
        }
    }
    for (; d < columns; d += kLanes) {
        const int64_t count = smaller<int64_t>(kLanes, columns - d);
        for (int r = 0; r < R; ++r) {
            const F a = E::load_some(w[r] + d, count);
            for (int t = 0; t < T; ++t) sums[r * T + t] = fma(a, load_some(x[t] + d, count), sums[r * T + t]);
        }
    }
    float totals[kSums];
    for (int i = 0; i < kSums; i += kLanes) store(totals + i, sum_each(*reinterpret_cast<F(*)[kLanes]>(sums + i)));
    for (int r = 0; r < R && n + r < weight_ND.rows; ++r)
        for (int t = 0; t < T; ++t)
            y[(token + t) * stride + r] =
                E::kHasScale ? totals[r * T + t] * weight_ND.scales[n + r] : totals[r * T + t];
}

template <int T, int R, class E>
int64_t multiply_tiles(const Rows& x_TD, int64_t token, const Weight& weight_ND, int64_t first, int64_t last, float* y,
                       int64_t stride) {
    for (; token + T <= x_TD.rows; token += T)
        for (int64_t n = first; n < last; n += R)
            multiply_tile<T, R, E>(x_TD, token, weight_ND, n, y + n - first, stride);
    return token;
}

// Some panels at a time: their rows stay in the second-level cache while the tokens pass.
template <class E>
void multiply_all(const Rows& x_TD, const Weight& weight_ND, int64_t first, int64_t last, float* y, int64_t stride) {
    constexpr int kMost = kLanes == 16 ? 4 : kLanes == 8 ? 3 : 2;  // by four rows: sums fill the registers but a few
    constexpr int64_t kBlockRows = 4 * kPanelRows;
    const int64_t end = smaller(last * kPanelRows, weight_ND.rows);
    for (int64_t n = first * kPanelRows; n < end; n += kBlockRows, y += kBlockRows) {
        const int64_t stop = smaller(n + kBlockRows, end);
        int64_t token = multiply_tiles<kMost, kLanes == 4 ? 2 : 4, E>(x_TD, 0, weight_ND, n, stop, y, stride);
        token = multiply_tiles<2, kLanes / 2, E>(x_TD, token, weight_ND, n, stop, y, stride);
        multiply_tiles<1, kLanes, E>(x_TD, token, weight_ND, n, stop, y, stride);
    }
}

}  // namespace

void multiply_floats(const Rows& x_TD, const Weight& weight_ND, int64_t first, int64_t last, float* y, int64_t stride) {
    if (weight_ND.format == Format::kBf16)
        multiply_all<Bf16Row>(x_TD, weight_ND, first, last, y, stride);
    else if (weight_ND.format == Format::kFp8)
        multiply_all<Fp8Row>(x_TD, weight_ND, first, last, y, stride);
    else
        multiply_all<F32Row>(x_TD, weight_ND, first, last, y, stride);
}

}  // namespace twofold::TWOFOLD_ISA
