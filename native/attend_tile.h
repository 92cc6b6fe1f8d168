// Attention of some query rows to one block of keys.
//
// Scalar version of a row, for each key block: running maximum m, sum s and output o,
//     m' = max(m, scores); o = o * exp(m - m') + sum exp(score - m') v; s likewise
//
// A key block is four panels, counted from position 0, and a row's arithmetic has a fixed order, so a row does not
// depend on the rows computed beside it: keys it must not see weigh exactly 0.
#pragma once

#include "kv.h"
#include "products.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kBlockPanels = 4;
constexpr int kBlock = kBlockPanels * kSlots;   // keys of a key block
constexpr int kQueries = 4;                     // query rows whose sums are held in registers
constexpr int kColumns = kLanes == 16 ? 4 : 1;  // times 16 keys or dims
constexpr float kNothing = -__builtin_inff();   // score of what must not be seen

// What a row has gathered so far: o / s is its output.
struct State {
    float* outputs;  // [rows, width]
    float* maxima;   // [rows]
    float* sums;     // [rows]
};

// Query rows of one sequence and one KV head. Row r is token r / group, query head g * group + r % group. The last rows
// repeat the last real one, so that there are always kQueries of them.
struct Tile {
    int64_t rows, padded_rows, size, width;  // width: size rounded up to 16, zeros there
    float* queries;                          // [padded_rows, width], already divided by sqrt(size)
    Codes codes;                             // the same as codes, for int8 keys
    float* scores;                           // [padded_rows, kBlock], then weights
    int64_t* firsts;                         // [padded_rows], first and last visible position
    int64_t* lasts;
    State state, total;
};

// Four panels of keys and values, and the positions of their slots. Panels outside of what is visible repeat a visible
// one; nobody sees their positions.
template <class Items>
struct KeyBlock {
    const typename Items::Item* keys[kBlockPanels];
    const typename Items::Item* values[kBlockPanels];
    const float* key_scales[kBlockPanels];
    const float* value_scales[kBlockPanels];
    int64_t starts[kBlockPanels];  // position of the first slot
    int64_t widths[kBlockPanels];  // slots in use
};

// sums[p][t] += rows[t] . panels[p], over `steps` steps of kPack items.
template <class Items, int P>
inline void add_products(F (&sums)[P][kQueries][kParts], const float* rows, int64_t stride,
                         const typename Items::Item* const* panels, int64_t steps) {
    for (int64_t step = 0; step < steps; ++step)
        for (int part = 0; part < kParts; ++part) {
            F w[P][Items::kPack];
            for (int p = 0; p < P; ++p) Items::expand(panels[p] + (step * 16 + part * kLanes) * Items::kPack, w[p]);
            for (int i = 0; i < Items::kPack; ++i)
                for (int t = 0; t < kQueries; ++t) {
                    const F x = broadcast(rows[t * stride + step * Items::kPack + i]);
                    for (int p = 0; p < P; ++p) sums[p][t][part] = fma(w[p][i], x, sums[p][t][part]);
                }
        }
}

// Scores of kQueries rows with P panels of keys.
template <class Items, int P>
inline void score_panels(const Tile& tile, int64_t row, const KeyBlock<Items>& block, int panel) {
    float* scores = tile.scores + row * kBlock + panel * kSlots;
    if constexpr (Items::kIsInteger) {
        I sums[P][kQueries][kParts];
        for (int t = 0; t < kQueries; ++t)
            for (int p = 0; p < P; ++p)
                for (int part = 0; part < kParts; ++part) sums[p][t][part] = broadcast(tile.codes.starts[row + t]);
        for (int64_t step = 0; step < tile.width / 4; ++step)
            for (int part = 0; part < kParts; ++part) {
                Bytes w[P];
                for (int p = 0; p < P; ++p)
                    w[p] = load<Bytes>(block.keys[panel + p] + (step * 16 + part * kLanes) * 4) ^ kWeightOffset;
                for (int t = 0; t < kQueries; ++t) {
                    int32_t quad;
                    __builtin_memcpy(&quad, tile.codes.row(row + t) + 4 * step, 4);
                    const I x = broadcast(quad);
                    for (int p = 0; p < P; ++p) sums[p][t][part] = dot_int8(sums[p][t][part], w[p], x);
                }
            }
        for (int p = 0; p < P; ++p)
            for (int t = 0; t < kQueries; ++t)
                for (int part = 0; part < kParts; ++part)
                    store(scores + t * kBlock + p * kSlots + part * kLanes,
                          __builtin_convertvector(sums[p][t][part], F) *
                              (load_f32(block.key_scales[panel + p] + part * kLanes) * tile.codes.scales[row + t]));
    } else {
        F sums[P][kQueries][kParts] = {};
        add_products<Items, P>(sums, tile.queries + row * tile.width, tile.width, block.keys + panel,
                               tile.width / Items::kPack);
        for (int p = 0; p < P; ++p)
            for (int t = 0; t < kQueries; ++t)
                for (int part = 0; part < kParts; ++part)
                    store(scores + t * kBlock + p * kSlots + part * kLanes, sums[p][t][part]);
    }
}

// Hides the slots of a panel that the row must not see.
inline void mask_panel(float* scores, int64_t first, int64_t last) {
    if (first <= 0 && last >= kSlots - 1) return;
    for (int64_t slot = 0; slot < kSlots; ++slot)
        if (slot < first || slot > last) scores[slot] = kNothing;
}

// Turns one row's scores into weights and moves its maximum and sum; returns what its outputs so far must be
// multiplied with. Weights of int8 values carry the values' scales.
template <class Items>
inline float weigh(const Tile& tile, int64_t row, const KeyBlock<Items>& block) {
    float* scores = tile.scores + row * kBlock;
    F most = broadcast(kNothing);
    for (int p = 0; p < kBlockPanels; ++p)
        mask_panel(scores + p * kSlots, tile.firsts[row] - block.starts[p],
                   smaller(tile.lasts[row] - block.starts[p], block.widths[p] - 1));
    for (int i = 0; i < kBlock; i += kLanes) most = vmax(load_f32(scores + i), most);
    const float before = tile.state.maxima[row], maximum = larger(before, max_lanes(most));
    const float base = maximum == kNothing ? 0.0f : maximum;  // nothing visible yet: every weight is 0
    F sum{};
    for (int p = 0; p < kBlockPanels; ++p)
        for (int part = 0; part < kParts; ++part) {
            float* place = scores + p * kSlots + part * kLanes;
            F weights = exp(load_f32(place) - base);
            sum += weights;
            if constexpr (Items::kIsInteger) weights *= load_f32(block.value_scales[p] + part * kLanes);
            store(place, weights);
        }
    const float factor = exp(broadcast(before - base))[0];
    tile.state.sums[row] = tile.state.sums[row] * factor + sum_lanes(sum);
    tile.state.maxima[row] = maximum;
    return factor;
}

// outputs = outputs * factor + weights @ values: kQueries rows, P times 16 dims from `dims` on.
template <class Items, int P>
inline void accumulate(const Tile& tile, int64_t row, const KeyBlock<Items>& block, int64_t dims,
                       const float* factors) {
    float* outputs = tile.state.outputs + row * tile.width + dims;
    F sums[P][kQueries][kParts];
    for (int p = 0; p < P; ++p)
        for (int t = 0; t < kQueries; ++t)
            for (int part = 0; part < kParts; ++part)
                sums[p][t][part] = load_f32(outputs + t * tile.width + p * 16 + part * kLanes) * factors[t];
    for (int panel = 0; panel < kBlockPanels; ++panel) {
        const typename Items::Item* columns[P];
        for (int p = 0; p < P; ++p) columns[p] = block.values[panel] + (dims + p * 16) * kSlots;
        add_products<Items, P>(sums, tile.scores + row * kBlock + panel * kSlots, kBlock, columns,
                               kSlots / Items::kPack);
    }
    for (int p = 0; p < P; ++p)
        for (int t = 0; t < kQueries; ++t)
            for (int part = 0; part < kParts; ++part)
                store(outputs + t * tile.width + p * 16 + part * kLanes, sums[p][t][part]);
}

// All rows of the tile with one key block.
template <class Items>
void visit(const Tile& tile, const KeyBlock<Items>& block) {
    for (int64_t row = 0; row < tile.padded_rows; row += kQueries) {
        for (int panel = 0; panel < kBlockPanels; panel += kColumns)
            score_panels<Items, kColumns>(tile, row, block, panel);
        float factors[kQueries];
        for (int t = 0; t < kQueries; ++t) factors[t] = weigh<Items>(tile, row + t, block);
        int64_t dims = 0;
        for (; dims + kColumns * 16 <= tile.width; dims += kColumns * 16)
            accumulate<Items, kColumns>(tile, row, block, dims, factors);
        for (; dims < tile.width; dims += 16) accumulate<Items, 1>(tile, row, block, dims, factors);
    }
}

// Adds what `part` has gathered over later keys to `total`.
inline void merge(const Tile& tile, const State& total, const State& part) {
    for (int64_t row = 0; row < tile.rows; ++row) {
        const float maximum = larger(total.maxima[row], part.maxima[row]);
        const float base = maximum == kNothing ? 0.0f : maximum;
        const float old = exp(broadcast(total.maxima[row] - base))[0];
        const float added = exp(broadcast(part.maxima[row] - base))[0];
        total.maxima[row] = maximum;
        total.sums[row] = total.sums[row] * old + part.sums[row] * added;
        float* outputs = total.outputs + row * tile.width;
        const float* more = part.outputs + row * tile.width;
        for (int64_t k = 0; k < tile.width; k += kLanes)
            store(outputs + k, load_f32(outputs + k) * old + load_f32(more + k) * added);
    }
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
