// Attention to bf16 keys and values on tiles (isa/tiles.h): both products of a key block for 16 query rows at a time.
//
// Keys and values lie in the cache as tiles want them (kv.h); values of the four panels are brought together first, so
// that a tile holds 32 slots. Queries and weights are float32; each enters as the sum of two bf16 numbers (halves.h).
// All rows go this way, however few, so that a row's bits do not depend on the rows beside it.
#pragma once

#include "attend_tile.h"
#include "halves.h"
#include "isa/tiles.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int64_t kTileItems = kTileBytes / 2;                      // bf16 items in a row of a tile
constexpr int64_t kValueItems = kSlots * 16;                        // of 16 dims in a panel
constexpr bool kHasBf16Tiles = kHasTiles && kBlockPanels % 2 == 0;  // two panels fill a tile
constexpr int kAtOnce = 4;                                          // C tiles 0 to 3; A is 4 and 5, B 6 and 7

inline bool takes_tiles(const Tile& tile) { return kHasBf16Tiles && tile.size % kTileItems == 0; }

// What a tile needs of memory beside the rest for bf16 items, in floats; and its arrays there.
inline int64_t halves_size(const Tile& tile) {
    const int64_t once = tile.padded_rows * (tile.width + kBlock) / 2;
    return takes_tiles(tile) ? 2 * once + kBlock / 2 * tile.width : kHasBf16Dot ? once : 0;
}

inline void place_halves(Tile& tile, uint16_t* memory) {
    const int count = takes_tiles(tile) ? 2 : kHasBf16Dot ? 1 : 0;
    for (int i = 0; i < count; ++i, memory += tile.padded_rows * tile.width) tile.query_halves[i] = memory;
    for (int i = 0; i < count; ++i, memory += tile.padded_rows * kBlock) tile.weight_halves[i] = memory;
    if (takes_tiles(tile)) tile.values = memory;
}

inline void fill_halves(const Tile& tile) {
    const int64_t count = tile.padded_rows * tile.width;
    if (tile.values != nullptr) return split(tile.queries, count, tile.query_halves[0], tile.query_halves[1]);
    if constexpr (kHasBf16Dot)
        for (int64_t i = 0; i < count; i += kLanes)
            round_to_halves(load_f32(tile.queries + i), tile.query_halves[0] + i);
}

// C[i] += (high + low)[rows] x B[i] for N tiles of B.
template <int N, class PlaceOfB>
inline void add_tiles(Tiles& tiles, const uint16_t* high, const uint16_t* low, int64_t stride, const PlaceOfB& b) {
    tiles.load<4>(high, 2 * stride);
    tiles.load<5>(low, 2 * stride);
    each<N>([&]<int i>() {
        tiles.load<6 + i % 2>(b(i), kTileBytes);
        tiles.dot_bf16<i, 4, 6 + i % 2>();
        tiles.dot_bf16<i, 5, 6 + i % 2>();
    });
}

template <int N>
inline void zero_tiles(Tiles& tiles) {
    each<N>([&]<int i>() { tiles.zero<i>(); });
}

inline void score_on_tiles(Tiles& tiles, const Tile& tile, int64_t row, const KeyBlock<Bf16Items>& block) {
    zero_tiles<kBlockPanels>(tiles);
    for (int64_t dim = 0; dim < tile.width; dim += kTileItems) {
        const int64_t place = row * tile.width + dim;
        add_tiles<kBlockPanels>(tiles, tile.query_halves[0] + place, tile.query_halves[1] + place, tile.width,
                                [&](int p) { return block.keys[p] + dim * kSlots; });
    }
    float* scores = tile.scores + row * kBlock;
    each<kBlockPanels>([&]<int p>() { tiles.store<p>(scores + p * kSlots, kBlock * 4); });
}

// [16 dims][panel][slot pairs][16 dims][2 slots] from the panels of the block.
inline void gather_values(const Tile& tile, const KeyBlock<Bf16Items>& block) {
    uint16_t* to = tile.values;
    for (int64_t dims = 0; dims < tile.width; dims += 16)
        for (int p = 0; p < kBlockPanels; ++p, to += kValueItems)
            __builtin_memcpy(to, block.values[p] + dims * kSlots, kValueItems * 2);
}

// outputs = outputs * factor + weights @ values: rows `row` on, N times 16 dims from `dims` on.
template <int N>
inline void accumulate_on_tiles(Tiles& tiles, const Tile& tile, int64_t row, int64_t rows, int64_t dims) {
    zero_tiles<N>(tiles);
    for (int64_t p = 0; p < kBlockPanels; p += 2) {
        const int64_t place = row * kBlock + p * kSlots;
        add_tiles<N>(tiles, tile.weight_halves[0] + place, tile.weight_halves[1] + place, kBlock,
                     [&](int i) { return tile.values + ((dims / 16 + i) * kBlockPanels + p) * kValueItems; });
    }
    alignas(64) float sums[kTileRows][kAtOnce * 16];
    each<N>([&]<int i>() { tiles.store<i>(&sums[0][i * 16], sizeof(sums[0])); });
    for (int64_t r = 0; r < rows; ++r) {
        float* outputs = tile.state.outputs + (row + r) * tile.width + dims;
        for (int d = 0; d < N * 16; d += kLanes)
            store(outputs + d, fma(load_f32(outputs + d), broadcast(tile.factors[row + r]), load_f32(sums[r] + d)));
    }
}

// What visit does, for sizes that fill tiles.
inline void visit_on_tiles(const Tile& tile, const KeyBlock<Bf16Items>& block) {
    Tiles tiles;
    const auto for_tiles = [&](const auto& body) {
        int64_t before = 0;
        for (int64_t row = 0; row < tile.padded_rows; row += kTileRows) {
            const int64_t rows = smaller<int64_t>(kTileRows, tile.padded_rows - row);
            const auto r = static_cast<uint8_t>(rows);
            if (rows != before) tiles.configure({{r, r, r, r, r, r, kTileRows, kTileRows}});
            before = rows;
            body(row, rows);
        }
    };
    for_tiles([&](int64_t row, int64_t) { score_on_tiles(tiles, tile, row, block); });
    weigh(tile, block);
    split(tile.scores, tile.padded_rows * kBlock, tile.weight_halves[0], tile.weight_halves[1]);
    gather_values(tile, block);
    for_tiles([&](int64_t row, int64_t rows) {
        int64_t dims = 0;
        for (; dims + kAtOnce * 16 <= tile.width; dims += kAtOnce * 16)
            accumulate_on_tiles<kAtOnce>(tiles, tile, row, rows, dims);
        for (; dims < tile.width; dims += 32) accumulate_on_tiles<2>(tiles, tile, row, rows, dims);
    });
}

// One key block, by tiles where they are to be had.
template <class Items>
inline void visit_block(const Tile& tile, const KeyBlock<Items>& block, const KeyBlock<Items>& later) {
    visit(tile, block, later);
}

template <>
inline void visit_block(const Tile& tile, const KeyBlock<Bf16Items>& block, const KeyBlock<Bf16Items>& later) {
    if constexpr (kHasBf16Tiles) {
        if (tile.values != nullptr) return visit_on_tiles(tile, block);
    }
    visit(tile, block, later);
}

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
