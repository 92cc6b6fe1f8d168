// What attention works on: a tile of query rows with what they have gathered so far, and a block of keys.
#pragma once

#include "kv.h"
#include "products.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kBlockPanels = 4;
constexpr int kBlock = kBlockPanels * kSlots;  // keys of a key block
constexpr float kNothing = -__builtin_inff();  // score of what must not be seen

// What a row has gathered so far: o / s is its output.
struct State {
    float* outputs;  // [rows, width]
    float* maxima;   // [rows, rounded up to 16]
    float* sums;     // the same
};

// Query rows of one sequence and KV head g. Row r is token r / group, query head g * group + r % group. The last rows
// repeat the last real one, so that for_rows has tiles for all of them.
struct Tile {
    int64_t g, rows, padded_rows, size, width;  // width: size rounded up to 16, zeros there
    float* queries;                             // [padded_rows, width], already divided by sqrt(size)
    Codes codes;                                // the same as codes, for int8 keys
    float* scores;                              // [padded_rows, kBlock], then weights
    float* factors;                             // [padded_rows, rounded up to 16]: see weigh
    uint16_t* query_halves[2];                  // the queries as bf16 numbers: one each for pairs, two for tiles
    uint16_t* weight_halves[2];                 // the weights likewise, [padded_rows, kBlock]
    uint16_t* values;                           // of a key block, brought together (attend_bf16.h)
    int64_t* firsts;                            // [padded_rows], first and last visible position
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

// Whether products take pairs of bf16 items, with those of queries and weights, which are rounded as the items are.
template <class Items>
constexpr bool kTakesBf16Dot = kHasBf16Dot && Items::kPack == 2;

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
