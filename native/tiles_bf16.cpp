// Products of float32 activations with bf16 rows on tiles (isa/tiles.h). The scalar version of 16 rows and 16 tokens:
//
//     C = 0;  for each 32 columns: A = the rows' items, B = the tokens' pairs, C += A x B;  y = C, transposed
//
// Weights are A, since their rows lie as A wants them. Activations are B, brought into that order once: the two halves
// of each value (halves.h) side by side, so that a step takes two products into each C. All tokens go this way, however
// few: a token's bits do not depend on the tokens beside it.
//
// Rows are read where they lie; a block that does not fill its tiles is copied and filled up with zeros. (Sizes of
// blocks are reckoned from the caches of a Sapphire Rapids, 48 KB and 2 MB; they were not measured.)
#include "halves.h"
#include "isa/tiles.h"
#include "products.h"
#include "scratch.h"
#include "threads.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int64_t kTokens = 16, kStepColumns = kTileBytes / 2;
constexpr int64_t kTileItems = kTileRows * kStepColumns;  // of A or B
constexpr int64_t kStepItems = 2 * kTileItems;            // of the activations: both halves
constexpr int kChains = 4;                                // C tiles 0 to 3; A is 4 and 5, B 6 and 7
constexpr int64_t kTokenBytes = 1024 * 1024;              // activations that pass a block, from the second-level cache
constexpr int64_t kAheadBytes = 512;                      // within a row where it lies

// Tiles of 16 rows each: tile i begins at from[i], its next columns `step` items further, its rows `stride` bytes
// apart.
struct RowTiles {
    const uint16_t* from[kChains];
    int64_t step, stride;
    bool is_copy;
};

// Where the outputs of a call go: of its tokens, which need not begin or end with a tile.
struct Outputs {
    float* y;
    int64_t stride, first_row, rows;

    // C[n, t] of one tile; columns beyond `count` do not exist.
    [[gnu::noinline]] void write(const float (&sums)[kTileRows][kTokens], int64_t token_tile, int64_t column,
                                 int64_t count) const {
        alignas(64) float sums_TN[kTokens][kTileRows];
        transpose(sums, sums_TN);
        const int64_t begin = token_tile * kTokens - first_row;
        for (int64_t t = larger<int64_t>(0, -begin); t < smaller(kTokens, rows - begin); ++t)
            __builtin_memcpy(y + (begin + t) * stride + column, sums_TN[t], static_cast<size_t>(count) * sizeof(float));
    }
};

// T tiles of tokens from `token_tile` on with P tiles of rows; `column` and `count` are those of the first row tile.
template <int T, int P>
void multiply_block(Tiles& tiles, const Pairs& x, int64_t token_tile, const RowTiles& rows, int first,
                    const Outputs& outputs, int64_t column, int64_t count) {
    each<T * P>([&]<int c>() { tiles.zero<c>(); });
    const uint16_t* pairs = x.data + token_tile * x.steps * kStepItems;
    for (int64_t step = 0; step < x.steps; ++step, pairs += kStepItems) {
        if (!rows.is_copy)
            for (int64_t row = 0; row < P * kTileRows; ++row)
                __builtin_prefetch(
                    reinterpret_cast<const char*>(rows.from[first + row / kTileRows] + step * rows.step) +
                    row % kTileRows * rows.stride + kAheadBytes);
        const auto load_rows = [&]<int p>() {
            tiles.load<4 + p % 2>(rows.from[first + p] + step * rows.step, rows.stride);
        };
        if constexpr (P <= 2) each<P>(load_rows);
        each<T>([&]<int t>() {
            tiles.load<6>(pairs + t * x.steps * kStepItems, kTileBytes);
            tiles.load<7>(pairs + t * x.steps * kStepItems + kTileItems, kTileBytes);
            each<P>([&]<int p>() {
                if constexpr (P > 2) load_rows.template operator()<p>();
                tiles.dot_bf16<t * P + p, 4 + p % 2, 6>();
                tiles.dot_bf16<t * P + p, 4 + p % 2, 7>();
            });
        });
    }
    each<T>([&]<int t>() {
        each<P>([&]<int p>() {
            alignas(64) float sums[kTileRows][kTokens];
            tiles.store<t * P + p>(sums, kTileBytes);
            const int64_t before = p * kTileRows;
            outputs.write(sums, token_tile + t, column + before, smaller<int64_t>(kTileRows, count - before));
        });
    });
}

// Tiles of tokens from `token_tile` on with up to kChains tiles of rows.
void multiply_tokens(Tiles& tiles, const Pairs& x, int64_t token_tile, int64_t tokens, const RowTiles& rows,
                     const Outputs& outputs, int64_t column, int64_t count) {
    const int tiles_of_rows = static_cast<int>((count + kTileRows - 1) / kTileRows);
    for (; tokens > 0; tokens -= 2, token_tile += 2) {
        int i = 0;
        const auto multiply = [&]<int T, int P>() {
            for (; i + P <= tiles_of_rows; i += P)
                multiply_block<T, P>(tiles, x, token_tile, rows, i, outputs, column + i * kTileRows,
                                     count - i * kTileRows);
        };
        if (tokens > 1) {
            multiply.template operator()<2, 2>();
            multiply.template operator()<2, 1>();
        } else {
            multiply.template operator()<1, kChains>();
            multiply.template operator()<1, 1>();
        }
    }
}

// Rows `row` to row + count - 1 as tiles: [tile][step][16 rows][32 columns], zeros where there is no weight.
RowTiles copy_rows(const Weight& weight_ND, int64_t row, int64_t count, int64_t steps) {
    const int64_t whole = round_up(count, kTileRows), size = steps * kTileItems;
    uint16_t* memory = scratch<uint16_t>(Slot::kPanel, whole * steps * kStepColumns);
    for (int64_t r = 0; r < whole; ++r) {
        const auto* from = static_cast<const uint16_t*>(weight_ND.codes) + (row + r) * weight_ND.columns;
        uint16_t* to = memory + r / kTileRows * size + r % kTileRows * kStepColumns;
        for (int64_t d = 0; d < steps * kStepColumns; d += kStepColumns, to += kTileItems) {
            const int64_t has = r < count ? smaller(kStepColumns, weight_ND.columns - d) : 0;
            if (has < kStepColumns) __builtin_memset(to, 0, kTileBytes);
            __builtin_memcpy(to, from + d, static_cast<size_t>(has) * sizeof(uint16_t));
        }
    }
    RowTiles result{{}, kTileItems, kTileBytes, true};
    for (int64_t i = 0; i < whole / kTileRows; ++i) result.from[i] = memory + i * size;
    return result;
}

RowTiles rows_in_place(const Weight& weight_ND, int64_t row, int64_t count) {
    RowTiles result{{}, kStepColumns, weight_ND.columns * 2, false};
    for (int64_t i = 0; i < count / kTileRows; ++i)
        result.from[i] = static_cast<const uint16_t*>(weight_ND.codes) + (row + i * kTileRows) * weight_ND.columns;
    return result;
}

// Up to 16 tokens' columns of one step: [high, low][16 pairs of columns][16 tokens][2], zeros where there is nothing.
void pack_step(const float* x, int64_t stride, int64_t tokens, int64_t columns, uint16_t* to) {
    alignas(64) uint16_t halves[2][kTokens][kStepColumns] = {};
    for (int64_t t = 0; t < smaller(kTokens, tokens); ++t) {
        float values[kStepColumns] = {};
        const int64_t count = smaller(kStepColumns, columns);
        __builtin_memcpy(values, x + t * stride, static_cast<size_t>(count) * sizeof(float));
        split(values, kStepColumns, halves[0][t], halves[1][t]);
    }
    for (int half = 0; half < 2; ++half) transpose(halves[half], to + half * kTileItems);
}

}  // namespace

// [tile of 16 tokens][step of 32 columns], packed as above.
Pairs pack_pairs(const Rows& x_TD) {
    const int64_t steps = (x_TD.columns + kStepColumns - 1) / kStepColumns, tokens = round_up(x_TD.rows, kTokens);
    uint16_t* data = scratch<uint16_t>(Slot::kCodes, tokens * steps * 2 * kStepColumns);
    parallel(tokens / kTokens * steps, 1 + 4096 / kTileItems, [&](int64_t first, int64_t last) {
        for (int64_t place = first; place < last; ++place) {
            const int64_t token = place / steps * kTokens, d = place % steps * kStepColumns;
            pack_step(x_TD.data + token * x_TD.stride + d, x_TD.stride, x_TD.rows - token, x_TD.columns - d,
                      data + place * kStepItems);
        }
    });
    return {data, steps};
}

void multiply_pairs(const Pairs& x, int64_t first_row, int64_t rows, const Weight& weight_ND, int64_t first,
                    int64_t last, float* y, int64_t stride) {
    Tiles tiles;
    tiles.configure({{16, 16, 16, 16, 16, 16, 16, 16}});
    const Outputs outputs{y, stride, first_row, rows};
    const int64_t token_tile = first_row / kTokens, end = (first_row + rows + kTokens - 1) / kTokens;
    const int64_t most = larger<int64_t>(2, kTokenBytes / (x.steps * kStepItems * 2) / 2 * 2);
    for (int64_t token = token_tile; token < end; token += most) {
        const int64_t tokens = smaller(most, end - token);
        for (int64_t panel = first; panel < last; panel += kChains) {
            const int64_t row = panel * kPanelRows, behind = smaller(last * kPanelRows, weight_ND.rows);
            const int64_t count = smaller<int64_t>(kChains * kPanelRows, behind - row);
            const bool is_whole = count % kTileRows == 0 && weight_ND.columns % kStepColumns == 0;
            const RowTiles from =
                is_whole ? rows_in_place(weight_ND, row, count) : copy_rows(weight_ND, row, count, x.steps);
            multiply_tokens(tiles, x, token, tokens, from, outputs, row - first * kPanelRows, count);
        }
    }
}

}  // namespace twofold::TWOFOLD_ISA
