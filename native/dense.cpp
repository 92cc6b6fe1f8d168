// Products of float32 activations with float32, bf16 or float8 rows.
//
//     y[t, n] = sum over d of x[t, d] * w[n, d], of float8 times the row's scale
//
// Every sum has kLanes accumulators along d, added at the end by one tree, whatever the number of tokens and rows
// beside it: a row of a batch is bit-equal to that row alone. Scalar version: lane[d % kLanes] += x[d] * w[d].
//
// Where one instruction takes pairs of bf16 items (isa/bf16_dot.h), activations of bf16 and float8 rows are rounded to
// them, once per call, and float8 becomes bf16, which holds all of it: lane[d / 2 % kLanes] += x[d] * w[d], and d + 1
// before d.
//
// float8 takes seven instructions to become a vector of floats, nine to become one of pairs. So where several tokens
// want it, a slice of some rows' columns is spread over those once and stays in the first-level cache while the tokens
// pass; their accumulators wait in memory for the next slice. bf16, which takes two or none, is as fast read as it
// lies.
#include "halves.h"
#include "isa/bf16_dot.h"
#include "panels.h"
#include "products.h"
#include "scratch.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kMostTokens = kLanes == 16 ? 4 : kLanes == 8 ? 3 : 2;  // of a tile: with kTileRows rows
constexpr int kTileRows = kLanes == 4 ? 2 : 4;                       // sums fill the registers but a few
constexpr int64_t kBlockRows = 4 * kPanelRows;  // at most, as they lie, from the second-level cache

constexpr int64_t kAskingPasses = kLanes == 16 ? 8 : 1;                // of tokens; more compute longer than they wait
constexpr int64_t kSpreadFrom = kLanes == 16 && !kHasBf16Dot ? 5 : 3;  // tokens
constexpr int64_t kSliceRows = 4, kSliceBytes = 4096;                  // of each: 16 KiB
constexpr int64_t kLeastTokens = 64, kTokenBytes = 2 * 1024 * 1024;    // that pass: from the caches

// What rows and tokens are made of: kItems of them fill a vector, of which `load` makes what `multiply` takes. Rows
// that are spread for many tokens become those of Spread.
struct Floats {
    using Token = float;
    static constexpr int kItems = kLanes;
    static constexpr int64_t kBlockBytes = 1024 * 1024;
    static F load_token(const float* from) { return load_f32(from); }
    static F multiply(F sum, F w, F x) { return fma_in_order(w, x, sum); }
};
struct F32Row : Floats {
    using Type = float;
    static F load(const float* from) { return load_f32(from); }
};
struct Bf16Row : Floats {
    using Type = uint16_t;
    static F load(const uint16_t* from) { return load_bf16(from); }
};
struct Fp8Row : Floats {
    using Type = uint8_t;
    using Spread = F32Row;
    static F load(const uint8_t* from) { return load_fp8(from); }
};
struct Pairwise {
    using Token = uint16_t;
    static constexpr int kItems = 2 * kLanes;
    static constexpr int64_t kBlockBytes = 128 * 1024;
    static I load_token(const uint16_t* from) { return TWOFOLD_ISA::load<I>(from); }
    static F multiply(F sum, I w, I x) { return dot_bf16(sum, w, x); }
};
struct Bf16Dot : Pairwise {
    using Type = uint16_t;
    static I load(const uint16_t* from) { return TWOFOLD_ISA::load<I>(from); }
};
struct Fp8Dot : Pairwise {
    using Type = uint8_t;
    using Spread = Bf16Dot;
    static I load(const uint8_t* from) { return load_fp8_as_bf16(from); }
};

template <class E>
constexpr bool kIsSpread = requires { typename E::Spread; };
template <class E>
constexpr int64_t kSliceColumns = kSliceBytes / static_cast<int64_t>(sizeof(typename E::Type));

// The first `count` items, zeros after.
template <int kItems, class Item>
struct Some {
    Item items[kItems] = {};
    Some(const Item* from, int64_t count) {
        for (int i = 0; i < count; ++i) items[i] = from[i];
    }
};

// Rows of activations.
template <class Item>
struct Tokens {
    const Item* data;
    int64_t rows, columns, stride;
};

// Rows of a weight, in order: row i < count begins at w + i * stride; y points at row 0's output of token 0.
template <class Type>
struct Block {
    const Type* w;
    int64_t stride, count;
    const float* scales;  // of each row, or null
    float* y;
    int64_t y_stride;
};

// Accumulators of T tokens and R rows, in whole vectors.
template <int T, int R>
struct Sums {
    static constexpr int kCount = T * R;
    F at[kCount];

    Sums() {
        for (int i = 0; i < kCount; ++i) at[i] = F{};
    }

    // at[t * R + r]: y of these tokens and of the rows from `row` on, as far as there are any.
    template <class Type>
    void finish(int64_t token, int64_t row, const Block<Type>& block) {
        float totals[kCount + kLanes];
        for (int i = 0; i < kCount; i += kLanes) {
            F some[kLanes];
            for (int lane = 0; lane < kLanes; ++lane) some[lane] = at[smaller(i + lane, kCount - 1)];
            store(totals + i, sum_each(some));
        }
        const int64_t count = smaller<int64_t>(R, block.count - row);
        for (int t = 0; t < T; ++t) {
            float *y = block.y + (token + t) * block.y_stride + row, *own = totals + t * R;
            for (int r = 0; block.scales != nullptr && r < count; ++r) own[r] *= block.scales[row + r];
            if (count == R)
                __builtin_memcpy(y, own, R * sizeof(float));
            else
                __builtin_memcpy(y, own, static_cast<size_t>(count) * sizeof(float));
        }
    }
};

// What is asked for while rows are multiplied: `first` items behind each, and `step` more with every vector.
struct Asked {
    int64_t first, step;
};

// sums += T tokens from x on, times R rows from `row` on; rows beyond the last repeat it. Two vectors of a row at a
// time: rows are often a multiple of 4096 bytes apart and share the sets of the first-level cache, so that a line would
// be gone before its second half is wanted.
template <class E, bool kAsks, int T, int R, class Type = typename E::Type, class Token = typename E::Token>
inline void add_products(Sums<T, R>& all, const Token* x, int64_t x_stride, const Block<Type>& block, int64_t row,
                         int64_t columns, Asked asked = {}) {
    constexpr int kItems = E::kItems;
    F(&sums)[Sums<T, R>::kCount] = all.at;
    const Token* tokens[T];
    const Type* w[R];
    for (int t = 0; t < T; ++t) tokens[t] = x + t * x_stride;
    for (int r = 0; r < R; ++r) w[r] = block.w + smaller(row + r, block.count - 1) * block.stride;
    int64_t d = 0;
    for (; d + 2 * kItems <= columns; d += 2 * kItems) {
        for (int64_t half = d; half < d + 2 * kItems; half += kItems, asked.first += asked.step) {
            decltype(E::load_token(x)) values[T];
            for (int t = 0; t < T; ++t) values[t] = E::load_token(tokens[t] + half);
            for (int r = 0; r < R; ++r) {
                if constexpr (kAsks) __builtin_prefetch(w[r] + asked.first, 0, 2);
                const auto weights = E::load(w[r] + half);
                for (int t = 0; t < T; ++t) sums[t * R + r] = E::multiply(sums[t * R + r], weights, values[t]);
            }
        }
    }
    for (; d < columns; d += kItems) {
        const int64_t count = smaller<int64_t>(kItems, columns - d);
        for (int r = 0; r < R; ++r) {
            const auto weights = E::load(Some<kItems, Type>(w[r] + d, count).items);
            for (int t = 0; t < T; ++t)
                sums[t * R + r] = E::multiply(sums[t * R + r], weights,
                                              E::load_token(Some<kItems, Token>(tokens[t] + d, count).items));
        }
    }
}

// Rows as they lie. Of many streams as short as rows the hardware loses track, so they are asked for: by the first pass
// of tokens the rows next in turn, by later ones the next block, each a share of it, while the arithmetic lasts.
template <class E>
struct LyingRows {
    const Tokens<typename E::Token>& x_TD;
    const Block<typename E::Type>& block;
    int64_t passes, pass;

    Asked asked(int64_t rows) const {
        if (pass == 0) return {rows * block.stride, E::kItems};
        const int64_t step = E::kItems / passes;
        return {block.count * block.stride + pass * step * (x_TD.columns / E::kItems), step};
    }

    template <int T, int R, bool kAsks>
    void multiply_tile(int64_t token) const {
        for (int64_t row = 0; row < block.count; row += R) {
            Sums<T, R> sums;
            add_products<E, kAsks>(sums, x_TD.data + token * x_TD.stride, x_TD.stride, block, row, x_TD.columns,
                                   asked(R));
            sums.finish(token, row, block);
        }
    }

    // T tokens at a time; returns the first one left.
    template <int T, int R>
    int64_t multiply(int64_t token) {
        for (; token + T <= x_TD.rows; token += T, ++pass)
            if (pass == 0 || passes <= kAskingPasses)
                multiply_tile<T, R, true>(token);
            else
                multiply_tile<T, R, false>(token);
        return token;
    }
};

template <class E>
void multiply_rows(const Tokens<typename E::Token>& x_TD, const Block<typename E::Type>& block) {
    LyingRows<E> rows{x_TD, block, (x_TD.rows + kMostTokens - 1) / kMostTokens, 0};
    int64_t token = rows.template multiply<kMostTokens, kTileRows>(0);
    if constexpr (kMostTokens > 3) token = rows.template multiply<3, kTileRows>(token);
    token = rows.template multiply<2, kLanes / 2>(token);
    rows.template multiply<1, kLanes>(token);
}

// Some rows' columns from `first` on, as those of E::Spread; what comes next is asked for: the same rows' next slice,
// or the first slice of the rows behind them.
template <class E, class To = typename E::Spread>
void spread(const Block<typename E::Type>& block, int64_t first, int64_t columns, typename To::Type* into) {
    const int64_t ahead = first + columns == block.stride ? kSliceRows * block.stride - first : columns;
    for (int64_t row = 0; row < block.count; ++row, into += kSliceColumns<To>) {
        const typename E::Type* from = block.w + row * block.stride + first;
        int64_t d = 0;
        for (; d + E::kItems <= columns; d += E::kItems) {
            __builtin_prefetch(from + ahead + d, 0, 2);
            store(into + d, E::load(from + d));
        }
        if (d < columns) store(into + d, E::load(Some<E::kItems, typename E::Type>(from + d, columns - d).items));
    }
}

// Columns of some rows, spread, and what is done with the accumulators before and after them.
template <class S>
struct Slice {
    Block<typename S::Type> block;
    int64_t first, columns;
    bool is_last;
};

// T tokens times kTileRows rows; their accumulators wait in `kept` between slices.
template <class S, int T>
[[gnu::noinline]] void multiply_slice(const Tokens<typename S::Token>& x_TD, int64_t token, const Slice<S>& slice,
                                      int64_t row, F* kept) {
    static const F zeros[T * kTileRows] = {};
    Sums<T, kTileRows> sums;
    const F* before = slice.first > 0 ? kept : zeros;
    for (int i = 0; i < T * kTileRows; ++i) sums.at[i] = before[i];
    const typename S::Token* x = x_TD.data + token * x_TD.stride + slice.first;
    add_products<S, false>(sums, x, x_TD.stride, slice.block, row, slice.columns);
    if (slice.is_last) return sums.finish(token, row, slice.block);
    for (int i = 0; i < T * kTileRows; ++i) kept[i] = sums.at[i];
}

// At most kSliceRows rows, slice by slice.
template <class E, class S = typename E::Spread>
void multiply_slices(const Tokens<typename S::Token>& x_TD, const Block<typename E::Type>& block) {
    auto* rows = scratch<typename S::Type>(Slot::kPanel, kSliceRows * kSliceColumns<S>);
    F* kept = scratch<F>(Slot::kSums, x_TD.rows * kSliceRows);
    Slice<S> slice{{rows, kSliceColumns<S>, block.count, block.scales, block.y, block.y_stride}, 0, 0, false};
    for (; slice.first < x_TD.columns; slice.first += slice.columns) {
        slice.columns = smaller(kSliceColumns<S>, x_TD.columns - slice.first);
        slice.is_last = slice.first + slice.columns == x_TD.columns;
        spread<E>(block, slice.first, slice.columns, rows);
        for_each_tile<kMostTokens>(x_TD.rows, [&]<int T>(int64_t token) {
            for (int64_t row = 0; row < block.count; row += kTileRows)
                multiply_slice<S, T>(x_TD, token, slice, row, kept + token * kSliceRows + row * T);
        });
    }
}

template <class E>
Block<typename E::Type> block_of(const Weight& weight_ND, int64_t n, int64_t count, float* y, int64_t stride) {
    const auto* codes = static_cast<const typename E::Type*>(weight_ND.codes);
    const float* scales = weight_ND.scales == nullptr ? nullptr : weight_ND.scales + n;
    return {codes + n * weight_ND.columns, weight_ND.columns, count, scales, y, stride};
}

// y points at row `first`'s output of token 0.
template <class E>
void multiply_all(const Tokens<typename E::Token>& x_TD, const Weight& weight_ND, int64_t first, int64_t last, float* y,
                  int64_t stride) {
    if constexpr (kIsSpread<E>) {
        constexpr auto kTokenItems = kTokenBytes / static_cast<int64_t>(sizeof(typename E::Token));
        const int64_t step = larger<int64_t>(kLeastTokens, kTokenItems / x_TD.columns);
        for (int64_t token = 0; x_TD.rows >= kSpreadFrom && token < x_TD.rows; token += step) {
            const Tokens<typename E::Token> some{x_TD.data + token * x_TD.stride, smaller(step, x_TD.rows - token),
                                                 x_TD.columns, x_TD.stride};
            float* to = y + token * stride - first;
            for (int64_t n = first; n < last; n += kSliceRows)
                multiply_slices<E>(some, block_of<E>(weight_ND, n, smaller(kSliceRows, last - n), to + n, stride));
        }
        if (x_TD.rows >= kSpreadFrom) return;
    }
    const int64_t bytes = weight_ND.columns * static_cast<int64_t>(sizeof(typename E::Type));
    const int64_t rows = smaller(kBlockRows, round_up(larger<int64_t>(1, E::kBlockBytes / bytes), kPanelRows));
    for (int64_t n = first; n < last; n += rows)
        multiply_rows<E>(x_TD, block_of<E>(weight_ND, n, smaller(rows, last - n), y + n - first, stride));
}

}  // namespace

void multiply_floats(const Rows& x_TD, const Weight& weight_ND, int64_t first, int64_t last, float* y, int64_t stride) {
    const int64_t from = first * kPanelRows, to = smaller(last * kPanelRows, weight_ND.rows);
    const Tokens<float> tokens{x_TD.data, x_TD.rows, x_TD.columns, x_TD.stride};
    if (weight_ND.format == Format::kBf16)
        multiply_all<Bf16Row>(tokens, weight_ND, from, to, y, stride);
    else if (weight_ND.format == Format::kFp8)
        multiply_all<Fp8Row>(tokens, weight_ND, from, to, y, stride);
    else
        multiply_all<F32Row>(tokens, weight_ND, from, to, y, stride);
}

// Rows of whole pairs, zeros behind them.
Rounded round_rows(const Rows& x_TD) {
    const int64_t stride = round_up(x_TD.columns, 2 * kLanes) + 2 * kLanes;  // rarely a power of two
    uint16_t* data = scratch<uint16_t>(Slot::kCodes, x_TD.rows * stride);
    parallel(x_TD.rows, 1 + 16384 / stride, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
            const float* x = x_TD.data + row * x_TD.stride;
            uint16_t* to = data + row * stride;
            int64_t d = 0;
            for (; d + kLanes <= x_TD.columns; d += kLanes) round_to_halves(load_f32(x + d), to + d);
            for (; d < stride; d += kLanes)
                round_to_halves(load_some(x + d, larger<int64_t>(0, x_TD.columns - d)), to + d);
        }
    });
    return {data, stride};
}

void multiply_rounded(const Rounded& x, int64_t rows, const Weight& weight_ND, int64_t first, int64_t last, float* y,
                      int64_t stride) {
    if constexpr (kHasBf16Dot) {
        const int64_t from = first * kPanelRows, to = smaller(last * kPanelRows, weight_ND.rows);
        const Tokens<uint16_t> tokens{x.data, rows, weight_ND.columns, x.stride};
        if (weight_ND.format == Format::kFp8)
            multiply_all<Fp8Dot>(tokens, weight_ND, from, to, y, stride);
        else
            multiply_all<Bf16Dot>(tokens, weight_ND, from, to, y, stride);
    }
}

}  // namespace twofold::TWOFOLD_ISA
