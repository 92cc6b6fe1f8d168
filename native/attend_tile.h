// Attention of some query rows to one block of keys.
//
// Scalar version of a row, for each key block: running maximum m, sum s and output o,
//     m' = max(m, scores); o = o * exp(m - m') + sum exp(score - m') v; s likewise
//
// A key block is four panels, counted from position 0, and a row's arithmetic has a fixed order, so a row does not
// depend on the rows computed beside it: keys it must not see weigh exactly 0.
#pragma once

#include "attend_weigh.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// Queries and weights of a row on, as products with Items take them.
template <class Items>
inline auto queries_from(const Tile& tile, int64_t row) {
    if constexpr (kTakesBf16Dot<Items>)
        return static_cast<const uint16_t*>(tile.query_halves[0]) + row * tile.width;
    else
        return static_cast<const float*>(tile.queries) + row * tile.width;
}
template <class Items>
inline auto weights_from(const Tile& tile, int64_t row) {
    if constexpr (kTakesBf16Dot<Items>)
        return static_cast<const uint16_t*>(tile.weight_halves[0]) + row * kBlock;
    else
        return static_cast<const float*>(tile.scores) + row * kBlock;
}

// How many rows for_rows takes, at least `rows`: one, two, or some fives and fours.
inline int64_t padded_rows(int64_t rows) {
    if (rows <= 2) return rows;
    while (rows < 5 * (rows % 4)) ++rows;
    return larger<int64_t>(rows, 4);
}

// Calls body.operator()<T, P, kAsks>(row) for all rows: T of them with P panels of 16 keys or dims are summed up in
// registers. Many rows share what it costs to spread a panel over floats; few take more panels at once instead, so that
// sums do not wait for each other, as far as the items of one fit beside the sums. The first ones ask for the next key
// block.
template <class Items, class Body>
inline void for_rows(int64_t rows, const Body& body) {
    constexpr int kFewPanels = kLanes < 16 ? 1 : Items::kPack == 4 ? 2 : 4;
    constexpr int kFewestPanels = kFewPanels > 1 ? kFewPanels : 2;
    int64_t row = 0;
    const auto pass = [&]<int T, int P>() {
        if (row == 0)
            body.template operator()<T, P, true>(row);
        else
            body.template operator()<T, P, false>(row);
        row += T;
    };
    if (rows == 1) return pass.template operator()<1, kFewestPanels>();
    if (rows == 2) return pass.template operator()<2, kFewestPanels>();
    int64_t fives = rows % 4;
    if constexpr (kLanes == 8) fives += (rows - 5 * fives) / 20 * 4;  // what sixteen registers hold
    for (; fives > 0; --fives) pass.template operator()<5, kFewPanels>();
    if constexpr (kLanes == 16)
        while (row + 8 <= rows) pass.template operator()<8, 2>();
    while (row < rows) pass.template operator()<4, kFewPanels>();
}

// sums[p][t] += rows[t] . panels[p], kPack items of each, which begin at `place` in a panel.
template <class Items, int T, int P, class Row>
inline void add_step(F (&sums)[P][T][kParts], const Row* rows, int64_t stride,
                     const typename Items::Item* const* panels, int64_t place) {
    const auto add = [&](const auto& multiply, const auto& item_of, const auto& row_of) {
        decltype(item_of(panels[0])) w[P][kParts];
        for (int p = 0; p < P; ++p)
            for (int part = 0; part < kParts; ++part)
                w[p][part] = item_of(panels[p] + place + part * kLanes * Items::kPack);
        for (int t = 0; t < T; ++t) {
            const auto x = row_of(rows + t * stride);
            for (int p = 0; p < P; ++p)
                for (int part = 0; part < kParts; ++part) sums[p][t][part] = multiply(sums[p][t][part], w[p][part], x);
        }
    };
    if constexpr (kTakesBf16Dot<Items>)
        add([](F sum, I w, I x) { return dot_bf16(sum, w, x); }, [](const auto* from) { return load<I>(from); },
            [](const Row* from) { return broadcast(load<int32_t>(from)); });
    else
        for (int i = 0; i < Items::kPack; ++i)
            add([](F sum, F w, F x) { return fma_in_order(w, x, sum); },
                [&](const auto* from) { return Items::expand(from, i); },
                [&](const Row* from) { return broadcast(from[i]); });
}

// The same over `steps` steps. Few rows are done with a panel sooner than the next one comes from memory, where panels
// lie far apart; so one key block is asked for while another is read.
template <class Items, int T, int P, bool kAsks, class Row>
inline void add_products(F (&sums)[P][T][kParts], const Row* rows, int64_t stride,
                         const typename Items::Item* const* panels, const typename Items::Item* const* later,
                         int64_t steps) {
    constexpr int64_t kStep = kSlots * Items::kPack;
    for (int64_t step = 0; step < steps; ++step) {
        if constexpr (kAsks)
            for (int p = 0; p < P; ++p)
                for (int part = 0; part < kParts; ++part)
                    __builtin_prefetch(later[p] + step * kStep + part * kLanes * Items::kPack, 0, 2);
        add_step<Items, T, P>(sums, rows + step * Items::kPack, stride, panels, step * kStep);
    }
}

// Scores of T rows with P panels of keys.
template <class Items, int T, int P, bool kAsks>
[[gnu::noinline]] void score_panels(const Tile& tile, int64_t row, const KeyBlock<Items>& block,
                                    const KeyBlock<Items>& later, int panel) {
    float* scores = tile.scores + row * kBlock + panel * kSlots;
    if constexpr (Items::kIsInteger) {
        I sums[P][T][kParts];
        for (int t = 0; t < T; ++t)
            for (int p = 0; p < P; ++p)
                for (int part = 0; part < kParts; ++part) sums[p][t][part] = broadcast(tile.codes.starts[row + t]);
        for (int64_t step = 0; step < tile.width / 4; ++step)
            for (int part = 0; part < kParts; ++part) {
                Bytes w[P];
                for (int p = 0; p < P; ++p) {
                    const int64_t place = (step * 16 + part * kLanes) * 4;
                    if constexpr (kAsks) __builtin_prefetch(later.keys[panel + p] + place, 0, 2);
                    w[p] = load<Bytes>(block.keys[panel + p] + place) ^ kWeightOffset;
                }
                for (int t = 0; t < T; ++t) {
                    int32_t quad;
                    __builtin_memcpy(&quad, tile.codes.row(row + t) + 4 * step, 4);
                    const I x = broadcast(quad);
                    for (int p = 0; p < P; ++p) sums[p][t][part] = dot_int8(sums[p][t][part], w[p], x);
                }
            }
        for (int p = 0; p < P; ++p)
            for (int t = 0; t < T; ++t)
                for (int part = 0; part < kParts; ++part)
                    store(scores + t * kBlock + p * kSlots + part * kLanes,
                          __builtin_convertvector(sums[p][t][part], F) *
                              (load_f32(block.key_scales[panel + p] + part * kLanes) * tile.codes.scales[row + t]));
    } else {
        F sums[P][T][kParts] = {};
        add_products<Items, T, P, kAsks>(sums, queries_from<Items>(tile, row), tile.width, block.keys + panel,
                                         later.keys + panel, tile.width / Items::kPack);
        for (int p = 0; p < P; ++p)
            for (int t = 0; t < T; ++t)
                for (int part = 0; part < kParts; ++part)
                    store(scores + t * kBlock + p * kSlots + part * kLanes, sums[p][t][part]);
    }
}

// outputs = outputs * factor + weights @ values: T rows, P times 16 dims from `dims` on.
template <class Items, int T, int P, bool kAsks>
[[gnu::noinline]] void accumulate(const Tile& tile, int64_t row, const KeyBlock<Items>& block,
                                  const KeyBlock<Items>& later, int64_t dims) {
    float* outputs = tile.state.outputs + row * tile.width + dims;
    F sums[P][T][kParts];
    for (int p = 0; p < P; ++p)
        for (int t = 0; t < T; ++t)
            for (int part = 0; part < kParts; ++part)
                sums[p][t][part] = load_f32(outputs + t * tile.width + p * 16 + part * kLanes) * tile.factors[row + t];
    for (int panel = 0; panel < kBlockPanels; ++panel) {
        const typename Items::Item *columns[P], *columns_later[P];
        for (int p = 0; p < P; ++p) {
            columns[p] = block.values[panel] + (dims + p * 16) * kSlots;
            columns_later[p] = later.values[panel] + (dims + p * 16) * kSlots;
        }
        add_products<Items, T, P, kAsks>(sums, weights_from<Items>(tile, row) + panel * kSlots, kBlock, columns,
                                         columns_later, kSlots / Items::kPack);
    }
    for (int p = 0; p < P; ++p)
        for (int t = 0; t < T; ++t)
            for (int part = 0; part < kParts; ++part)
                store(outputs + t * tile.width + p * 16 + part * kLanes, sums[p][t][part]);
}

// All rows of the tile with one key block (`later` is the one that follows): its keys stay in the first-level cache
// while all rows pass, then its values.
template <class Items>
void visit(const Tile& tile, const KeyBlock<Items>& block, const KeyBlock<Items>& later) {
    for_rows<Items>(tile.padded_rows, [&]<int T, int P, bool kAsks>(int64_t row) {
        for (int panel = 0; panel < kBlockPanels; panel += P)
            score_panels<Items, T, P, kAsks>(tile, row, block, later, panel);
    });
    weigh(tile, block);
    for_rows<Items>(tile.padded_rows, [&]<int T, int P, bool kAsks>(int64_t row) {
        int64_t dims = 0;
        for (; dims + P * 16 <= tile.width; dims += P * 16)
            accumulate<Items, T, P, kAsks>(tile, row, block, later, dims);
        for (; dims < tile.width; dims += 16) accumulate<Items, T, 1, kAsks>(tile, row, block, later, dims);
    });
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
