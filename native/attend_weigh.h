// Softmax of attention, one block of keys after the other: scores become weights, running maxima and sums move.
//
// Rows go a vector at a time, so that what a row needs once costs a lane. Their arithmetic is the same however many
// there are.
#pragma once

#include "attend_block.h"
#include "isa/bf16_dot.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// Maxima to subtract: 0 where nothing is visible yet, so that every weight is 0.
inline float finite(float maximum) { return maximum == kNothing ? 0.0f : maximum; }
inline F finite(F maxima) { return select(maxima == kNothing, F{}, maxima); }

// Hides the slots of a panel that the row must not see.
inline void mask_panel(float* scores, int64_t first, int64_t last) {
    const I from = broadcast(static_cast<int32_t>(larger<int64_t>(first, 0)));
    const I to = broadcast(static_cast<int32_t>(smaller<int64_t>(larger<int64_t>(last, -1), kSlots)));
    for (int part = 0; part < kParts; ++part) {
        const I slots = lane_numbers() + part * kLanes;
        float* place = scores + part * kLanes;
        store(place, select((slots >= from) & (slots <= to), load_f32(place), broadcast(kNothing)));
    }
}

template <class Items>
inline void mask_row(const Tile& tile, int64_t row, const KeyBlock<Items>& block) {
    for (int p = 0; p < kBlockPanels; ++p)
        mask_panel(tile.scores + row * kBlock + p * kSlots, tile.firsts[row] - block.starts[p],
                   smaller(tile.lasts[row] - block.starts[p], block.widths[p] - 1));
}

// Whether every row sees all keys of the block: positions and what rows see ascend.
template <class Items>
inline bool is_whole(const Tile& tile, const KeyBlock<Items>& block) {
    bool is_full = block.starts[0] >= tile.firsts[tile.padded_rows - 1];
    for (int p = 0; p < kBlockPanels; ++p)
        is_full = is_full && block.widths[p] == kSlots && block.starts[p] + kSlots - 1 <= tile.lasts[0];
    return is_full;
}

// Scores of a row into weights; lane by lane their sum. Weights of int8 values carry the values' scales.
template <class Items>
inline F weigh_row(const Tile& tile, int64_t row, const KeyBlock<Items>& block, float base) {
    float* scores = tile.scores + row * kBlock;
    F sum{};
    for (int p = 0; p < kBlockPanels; ++p)
        for (int part = 0; part < kParts; ++part) {
            const int64_t slot = p * kSlots + part * kLanes;
            F weights = exp_of_negative(load_f32(scores + slot) - base);
            sum += weights;
            if constexpr (Items::kIsInteger) weights *= load_f32(block.value_scales[p] + part * kLanes);
            store(scores + slot, weights);
        }
    return sum;
}

// The same as pairs of bf16, whose sum it is, by an exponential as exact as that asks for.
inline F weigh_row_as_pairs(const Tile& tile, int64_t row, float base) {
    constexpr float kLog2E = 1.44269504088896341f;
    const F shift = broadcast(-base * kLog2E);
    const I ones = broadcast(0x3F803F80);
    const auto weights = [&](const float* scores) {
        return power_of_two(fma(load_f32(scores), broadcast(kLog2E), shift));
    };
    F sum{};
    for (int64_t slot = row * kBlock; slot < (row + 1) * kBlock; slot += 2 * kLanes) {
        const I pairs = pack_halves(weights(tile.scores + slot), weights(tile.scores + slot + kLanes));
        store(tile.weight_halves[0] + slot, pairs);
        sum = dot_bf16(sum, pairs, ones);
    }
    return sum;
}

// Lane i of the result: what fold_lanes makes of rows[i], for the first `count`. Writes over rows.
template <class Combine>
inline F fold_some(F (&rows)[kLanes], int64_t count, const Combine& combine) {
    if (count == kLanes) return fold_each(rows, combine);
    float folded[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) folded[i] = fold_lanes(rows[i], combine);
    return load_f32(folded);
}

// Turns scores into weights, moves every row's maximum and sum, and leaves in `factors` what the row's outputs so far
// must be multiplied with.
template <class Items>
void weigh(const Tile& tile, const KeyBlock<Items>& block) {
    const bool masks = !is_whole(tile, block);
    for (int64_t row = 0; row < tile.padded_rows; row += kLanes) {
        const int64_t count = smaller<int64_t>(kLanes, tile.padded_rows - row);
        F rows[kLanes];
        for (int64_t i = 0; i < count; ++i) {
            if (masks) mask_row(tile, row + i, block);
            const float* scores = tile.scores + (row + i) * kBlock;
            rows[i] = load_f32(scores);
            for (int slot = kLanes; slot < kBlock; slot += kLanes) rows[i] = vmax(load_f32(scores + slot), rows[i]);
        }
        const F before = load_f32(tile.state.maxima + row);
        const F maxima = vmax(before, fold_some(rows, count, [](auto a, auto b) { return a > b ? a : b; }));
        const F factors = exp_of_negative(before - finite(maxima));
        store(tile.state.maxima + row, maxima);
        store(tile.factors + row, factors);
        for (int64_t i = 0; i < count; ++i) {
            const float base = finite(tile.state.maxima[row + i]);
            if constexpr (kTakesBf16Dot<Items>)
                rows[i] = weigh_row_as_pairs(tile, row + i, base);
            else
                rows[i] = weigh_row(tile, row + i, block, base);
        }
        const F sums = fold_some(rows, count, [](auto a, auto b) { return a + b; });
        store(tile.state.sums + row, load_f32(tile.state.sums + row) * factors + sums);
    }
}

// Adds what `part` has gathered over later keys to `total`.
inline void merge(const Tile& tile, const State& total, const State& part) {
    for (int64_t row = 0; row < tile.rows; ++row) {
        const float maximum = larger(total.maxima[row], part.maxima[row]);
        const float base = finite(maximum);
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
