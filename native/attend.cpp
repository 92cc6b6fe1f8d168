// Attention over a paged cache, keys and values first written to it.
//
//     o[t, h] = sum over visible keys l of softmax(q[t, h] . k[l, g] / sqrt(K)) * v[l, g],   g = h / (H / G)
//
// Visible are the keys of the same sequence at positions first(p) <= l <= p, first(p) = p / chunk * chunk (or 0).
// Scalar version of a row: for each key block, running maximum m, sum s and output o:
//     m' = max(m, scores); o = o * exp(m - m') + sum exp(score - m') v; s likewise; at the end o / s.
//
// Key blocks begin at multiples of kBlock of the absolute position and a row's arithmetic has a fixed order, so a row
// does not depend on the rows computed beside it: keys it must not see weigh exactly 0.
#include "kernels.h"
#include "scratch.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int64_t kBlock = 32;     // keys
constexpr int64_t kTileRows = 32;  // query rows (tokens times the heads that share a KV head) of a task, about
constexpr int kQueries = kLanes == 16 ? 4 : 2;
constexpr int kSpan = 4;  // vectors of a value row held in registers

template <bool kBf16>
struct Item {
    using Type = float;
    static F load(const float* from) { return load_f32(from); }
    static F load_some(const float* from, int64_t count) { return TWOFOLD_ISA::load_some(from, count); }
    static float narrow(float value) { return value; }
};
template <>
struct Item<true> {
    using Type = uint16_t;
    static F load(const uint16_t* from) { return load_bf16(from); }
    static F load_some(const uint16_t* from, int64_t count) { return load_bf16_some(from, count); }
    static uint16_t narrow(float value) { return to_bf16(value); }
};

// A vector, or the `left` items of it that there are.
template <bool kBf16, bool kWhole>
inline F load_part(const typename Item<kBf16>::Type* from, int64_t left) {
    return kWhole ? Item<kBf16>::load(from) : Item<kBf16>::load_some(from, left);
}

template <bool kBf16>
void write_heads(const Heads& x_TGK, typename Item<kBf16>::Type* cache, const Cache& shape, const int64_t* slots_T) {
    parallel(x_TGK.tokens, 1 + 32768 / (x_TGK.heads * x_TGK.size), [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t)
            for (int64_t g = 0; g < x_TGK.heads; ++g) {
                const int64_t block = slots_T[t] / shape.block_size, offset = slots_T[t] % shape.block_size;
                auto* to = cache + ((block * shape.kv_heads + g) * shape.block_size + offset) * shape.size;
                const float* from = x_TGK.data + t * x_TGK.token_stride + g * x_TGK.head_stride;
                for (int64_t k = 0; k < shape.size; ++k) to[k] = Item<kBf16>::narrow(from[k]);
            }
    });
}

// Some query rows of one sequence and one KV head. Row r is token r / group, query head g * group + r % group.
struct Tile {
    int64_t rows, padded_rows, size, padded_size;
    float* queries;   // [padded_rows, padded_size], zeros where padded
    float* outputs;   // the same shape, running
    float* scores;    // [padded_rows, kBlock], then weights
    float* maxima;    // [padded_rows]
    float* sums;      // [padded_rows]
    float* factors;   // [padded_rows], exp(old maximum - new maximum)
    int64_t* firsts;  // [padded_rows], first and last visible position
    int64_t* lasts;
};

Tile place_tile(int64_t rows, int64_t size) {
    Tile tile;
    tile.rows = rows;
    tile.size = size;
    tile.padded_rows = round_up(rows, kQueries);
    tile.padded_size = round_up(size, kLanes);
    const int64_t matrix = tile.padded_rows * tile.padded_size;
    float* memory = scratch<float>(Slot::kAttend, 2 * matrix + tile.padded_rows * (kBlock + 3 + 4));
    tile.firsts = reinterpret_cast<int64_t*>(memory);
    tile.lasts = tile.firsts + tile.padded_rows;
    tile.queries = memory + 4 * tile.padded_rows;
    tile.outputs = tile.queries + matrix;
    tile.scores = tile.outputs + matrix;
    tile.maxima = tile.scores + tile.padded_rows * kBlock;
    tile.sums = tile.maxima + tile.padded_rows;
    tile.factors = tile.sums + tile.padded_rows;
    return tile;
}

// dots[i * kKeys + j] += queries[i] . keys[j], one vector of the head from k on (the last one may be partial).
template <int Q, bool kBf16, bool kWhole>
inline void add_products(F (&dots)[kLanes], const Tile& tile, const float* queries,
                         const typename Item<kBf16>::Type* const* keys, int64_t k) {
    constexpr int kKeys = kLanes / Q;
    F q[Q];
    for (int i = 0; i < Q; ++i) q[i] = load_f32(queries + i * tile.padded_size + k);
    for (int j = 0; j < kKeys; ++j) {
        const F values = load_part<kBf16, kWhole>(keys[j] + k, tile.size - k);
        for (int i = 0; i < Q; ++i) dots[i * kKeys + j] = fma(q[i], values, dots[i * kKeys + j]);
    }
}

// Scores of Q query rows with kLanes / Q keys at once; every dot product has kLanes accumulators and the same tree.
template <int Q, bool kBf16>
void score(const Tile& tile, int64_t row, const typename Item<kBf16>::Type* const* keys, int64_t key) {
    constexpr int kKeys = kLanes / Q;
    const float* queries = tile.queries + row * tile.padded_size;
    F dots[kLanes] = {};
    int64_t k = 0;
    for (; k + kLanes <= tile.size; k += kLanes) add_products<Q, kBf16, true>(dots, tile, queries, keys + key, k);
    if (k < tile.size) add_products<Q, kBf16, false>(dots, tile, queries, keys + key, k);
    float totals[kLanes];
    store(totals, sum_each(dots));
    for (int i = 0; i < Q; ++i)
        __builtin_memcpy(tile.scores + (row + i) * kBlock + key, totals + i * kKeys, kKeys * sizeof(float));
}

// Weights of one row's keys at positions start .. start + kBlock - 1, and its new maximum, sum and factor.
void weigh(const Tile& tile, int64_t row, int64_t start, float scale) {
    float* scores = tile.scores + row * kBlock;
    F most = broadcast(-__builtin_inff());
    for (int64_t i = 0; i < kBlock; i += kLanes) {
        F values = load_f32(scores + i) * scale;
        const int64_t low = tile.firsts[row] - start - i, high = tile.lasts[row] - start - i;  // visible lanes
        if (low > 0 || high < kLanes - 1) {
            const I lane = lane_numbers();
            const I seen = (lane >= static_cast<int32_t>(smaller<int64_t>(low, kLanes))) &
                           (lane <= static_cast<int32_t>(larger<int64_t>(high, -1)));
            values = select(seen, values, broadcast(-__builtin_inff()));
        }
        store(scores + i, values);
        most = vmax(values, most);
    }
    const float maximum = larger(tile.maxima[row], max_lanes(most));
    const float base = maximum == -__builtin_inff() ? 0.0f : maximum;  // nothing visible yet: every weight is 0
    F sum{};
    for (int64_t i = 0; i < kBlock; i += kLanes) {
        const F weights = exp(load_f32(scores + i) - base);
        store(scores + i, weights);
        sum += weights;
    }
    tile.factors[row] = exp(broadcast(tile.maxima[row] - base))[0];
    tile.sums[row] = tile.sums[row] * tile.factors[row] + sum_lanes(sum);
    tile.maxima[row] = maximum;
}

// outputs = outputs * factor + weights @ values for Q rows and S vectors of the value rows from k on.
template <int Q, int S, bool kBf16, bool kWhole>
void accumulate(const Tile& tile, int64_t row, int64_t k, const typename Item<kBf16>::Type* const* values,
                int64_t count) {
    F sums[Q][S];
    for (int i = 0; i < Q; ++i)
        for (int s = 0; s < S; ++s)
            sums[i][s] = load_f32(tile.outputs + (row + i) * tile.padded_size + k + s * kLanes) * tile.factors[row + i];
    for (int64_t key = 0; key < count; ++key) {
        F value[S];
        for (int s = 0; s < S; ++s) value[s] = load_part<kBf16, kWhole>(values[key] + k + s * kLanes, tile.size - k);
        for (int i = 0; i < Q; ++i) {
            const F weight = broadcast(tile.scores[(row + i) * kBlock + key]);
            for (int s = 0; s < S; ++s) sums[i][s] = fma(weight, value[s], sums[i][s]);
        }
    }
    for (int i = 0; i < Q; ++i)
        for (int s = 0; s < S; ++s) store(tile.outputs + (row + i) * tile.padded_size + k + s * kLanes, sums[i][s]);
}

// One key block for all rows: keys and values at positions start .. start + count - 1 (pointers to their rows; beyond
// the last they repeat it, its scores are masked).
template <bool kBf16>
void visit_block(const Tile& tile, int64_t start, int64_t count, const typename Item<kBf16>::Type* const* keys,
                 const typename Item<kBf16>::Type* const* values, float scale) {
    for (int64_t row = 0; row < tile.padded_rows; row += kQueries) {
        for (int64_t key = 0; key < kBlock; key += kLanes / kQueries) score<kQueries, kBf16>(tile, row, keys, key);
        for (int i = 0; i < kQueries; ++i) weigh(tile, row + i, start, scale);
        int64_t k = 0;
        for (; k + kSpan * kLanes <= tile.size; k += kSpan * kLanes)
            accumulate<kQueries, kSpan, kBf16, true>(tile, row, k, values, count);
        for (; k + kLanes <= tile.size; k += kLanes) accumulate<kQueries, 1, kBf16, true>(tile, row, k, values, count);
        if (k < tile.size) accumulate<kQueries, 1, kBf16, false>(tile, row, k, values, count);
    }
}

// Tokens first .. last - 1 of a sequence with KV head g.
struct Task {
    int64_t sequence, first, last, g;
};

void fill_tile(const Tile& tile, const Task& task, const Heads& q_THK, int64_t group, const Layout& layout) {
    for (int64_t row = 0; row < tile.padded_rows; ++row) {
        const int64_t used = smaller(row, tile.rows - 1), token = task.first + used / group;
        const float* q = q_THK.data + token * q_THK.token_stride + (task.g * group + used % group) * q_THK.head_stride;
        for (int64_t k = 0; k < tile.padded_size; ++k) {
            tile.queries[row * tile.padded_size + k] = k < tile.size ? q[k] : 0.0f;
            tile.outputs[row * tile.padded_size + k] = 0.0f;
        }
        const int64_t position = layout.positions_T[token];
        tile.lasts[row] = position;
        tile.firsts[row] = layout.chunk == 0 ? 0 : position / layout.chunk * layout.chunk;
        tile.maxima[row] = -__builtin_inff();
        tile.sums[row] = 0.0f;
    }
}

template <bool kBf16>
void run_task(const Task& task, const Heads& q_THK, const Cache& cache, const Layout& layout, float* o_THK) {
    using T = typename Item<kBf16>::Type;
    const int64_t group = q_THK.heads / cache.kv_heads, size = cache.size;
    const Tile tile = place_tile((task.last - task.first) * group, size);
    fill_tile(tile, task, q_THK, group, layout);
    const int64_t first = tile.firsts[0], last = tile.lasts[tile.rows - 1];
    const int32_t* table = layout.blocks_SB + task.sequence * layout.table_width;
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(size));
    for (int64_t start = first / kBlock * kBlock; start <= last; start += kBlock) {
        const T *keys[kBlock], *values[kBlock];
        for (int64_t i = 0; i < kBlock; ++i) {
            const int64_t position = larger(first, smaller(start + i, last));
            const int64_t slot = position - layout.bases_S[task.sequence];
            const int64_t place =
                (static_cast<int64_t>(table[slot / cache.block_size]) * cache.kv_heads + task.g) * cache.block_size +
                slot % cache.block_size;
            keys[i] = static_cast<const T*>(cache.keys) + place * size;
            values[i] = static_cast<const T*>(cache.values) + place * size;
        }
        visit_block<kBf16>(tile, start, smaller(kBlock, last + 1 - start), keys, values, scale);
    }
    for (int64_t row = 0; row < tile.rows; ++row) {
        float* o = o_THK + ((task.first + row / group) * q_THK.heads + task.g * group + row % group) * size;
        for (int64_t k = 0; k < size; ++k) o[k] = tile.outputs[row * tile.padded_size + k] / tile.sums[row];
    }
}

// Tasks are shared out by cost: the keys their last row sees.
template <bool kBf16>
void attend_all(const Heads& q_THK, const Cache& cache, const Layout& layout, float* o_THK) {
    const int64_t group = q_THK.heads / cache.kv_heads;
    const int64_t tokens = larger<int64_t>(1, kTileRows / group);
    // visit(task, cost) for every task, in order
    const auto for_each_task = [&](const auto& visit) {
        for (int64_t s = 0; s < layout.sequences; ++s)
            for (int64_t g = 0; g < cache.kv_heads; ++g)
                for (int64_t t = layout.starts_S[s]; t < layout.starts_S[s + 1]; t += tokens) {
                    const int64_t last = smaller<int64_t>(t + tokens, layout.starts_S[s + 1]);
                    const int64_t end = layout.positions_T[last - 1], begin = layout.positions_T[t];
                    const int64_t first = layout.chunk == 0 ? 0 : begin / layout.chunk * layout.chunk;
                    visit(Task{s, t, last, g}, (end + kBlock - first) * (last - t));
                }
    };
    int64_t total = 0;
    for_each_task([&](const Task&, int64_t cost) { total += cost; });
    parallel(total, 1 + 65536 / (group * cache.size), [&](int64_t from, int64_t to) {
        int64_t passed = 0;
        for_each_task([&](const Task& task, int64_t cost) {
            if (passed >= from && passed < to) run_task<kBf16>(task, q_THK, cache, layout, o_THK);
            passed += cost;
        });
    });
}

template <bool kBf16>
void attend_cache(const Heads& q_THK, const Heads& k_TGK, const Heads& v_TGK, const Cache& cache, const Layout& layout,
                  float* o_THK) {
    using T = typename Item<kBf16>::Type;
    write_heads<kBf16>(k_TGK, static_cast<T*>(cache.keys), cache, layout.slots_T);
    write_heads<kBf16>(v_TGK, static_cast<T*>(cache.values), cache, layout.slots_T);
    attend_all<kBf16>(q_THK, cache, layout, o_THK);
}

}  // namespace

void attend(const Heads& q_THK, const Heads& k_TGK, const Heads& v_TGK, const Cache& cache, const Layout& layout,
            float* o_THK) {
    if (q_THK.tokens == 0) return;
    if (cache.is_bf16)
        attend_cache<true>(q_THK, k_TGK, v_TGK, cache, layout, o_THK);
    else
        attend_cache<false>(q_THK, k_TGK, v_TGK, cache, layout, o_THK);
}

}  // namespace twofold::TWOFOLD_ISA
