// Products of int8 codes on tiles (isa/tiles.h); integer.cpp gives it what is worth them, as panels of int8 codes.
//
// The scalar version of 16 tokens and one panel:
//
//     C = 0;  for each 64 columns: A = the tokens' codes, B = 16 quads of the panel, C += A x B;  y = scaled C
//
// Four C tiles are summed up side by side, because the next product into the same C must wait for the last one (52
// cycles, of which a product of full tiles takes 16): 2 x 16 tokens by 2 panels, or the last 16 tokens by 4 panels.
// Tokens that do not fill a tile are a tile with fewer rows.
#include "isa/tiles.h"

#include "panels.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// Which tile is what for T tiles of tokens: C tiles 0 to 3, A 4 and 5, B 6 and 7 by turns.
template <int T>
struct Numbers {
    static constexpr int c(int t, int p) { return t * (4 / T) + p; }
    static constexpr int a(int t) { return 4 + t; }
    static constexpr int b(int p) { return 6 + p % 2; }
};

// The tokens of a block: rows[t] of them from `token` + 16 t on.
struct Block {
    int64_t token;
    int rows[2];
};

TileRows rows_of_tiles(const Block& block) {
    TileRows result{{16, 16, 16, 16, 16, 16, 16, 16}};
    const bool has_two = block.rows[1] > 0;
    for (int i = 0; i < 4; ++i) result.of[i] = static_cast<uint8_t>(block.rows[has_two ? i / 2 : 0]);
    for (int t = 0; t < 2; ++t) result.of[Numbers<2>::a(t)] = static_cast<uint8_t>(block.rows[has_two ? t : 0]);
    return result;
}

// T tiles of tokens with P panels.
template <int T, int P>
void multiply_block(Tiles& tiles, const Codes& x, const Block& block, const Panel* panels) {
    using N = Numbers<T>;
    each<T>([&]<int t>() { each<P>([&]<int p>() { tiles.zero<N::c(t, p)>(); }); });
    const int8_t* codes = x.row(block.token);
    for (int64_t d = 0; d < x.width; d += kTileBytes) {
        each<T>([&]<int t>() { tiles.load<N::a(t)>(codes + t * kTileRows * x.stride + d, x.stride); });
        each<P>([&]<int p>() {
            tiles.load<N::b(p)>(panels[p].codes + d * kPanelRows, kTileBytes);
            each<T>([&]<int t>() { tiles.dot_int8<N::c(t, p), N::a(t), N::b(p)>(); });
        });
    }
    each<T>([&]<int t>() {
        each<P>([&]<int p>() {
            alignas(64) int32_t sums[kTileRows][kPanelRows];
            tiles.store<N::c(t, p)>(sums, kTileBytes);
            for (int row = 0; row < block.rows[t]; ++row) {
                I parts[1][kParts];
                for (int part = 0; part < kParts; ++part) parts[0][part] = load<I>(sums[row] + part * kLanes);
                finish(parts, x, block.token + t * kTileRows + row, panels[p]);
            }
        });
    });
}

// T tiles of tokens with all panels, P at a time.
template <int T, int P>
void multiply_tokens(Tiles& tiles, const Codes& x, const Block& block, const Panel* panels, int64_t count) {
    int64_t i = 0;
    for (; i + P <= count; i += P) multiply_block<T, P>(tiles, x, block, panels + i);
    for (; i < count; ++i) multiply_block<T, 1>(tiles, x, block, panels + i);
}

}  // namespace

void multiply_tiles(const Codes& x, int64_t tokens, const Panel* panels, int64_t count) {
    Tiles tiles;
    for (int64_t token = 0; token < tokens; token += 2 * kTileRows) {
        const int64_t left = smaller<int64_t>(tokens - token, 2 * kTileRows), first = smaller<int64_t>(left, kTileRows);
        const Block block{token, {static_cast<int>(first), static_cast<int>(left - first)}};
        if (token == 0 || left < 2 * kTileRows) tiles.configure(rows_of_tiles(block));
        if (left > kTileRows)
            multiply_tokens<2, 2>(tiles, x, block, panels, count);
        else
            multiply_tokens<1, 4>(tiles, x, block, panels, count);
    }
}

int64_t measure_tiles(int64_t rounds) {
    constexpr int kChains = 4;
    Tiles tiles;
    tiles.configure({{16, 16, 16, 16, 16, 16, 16, 16}});
    for (int64_t round = 0; round < rounds; ++round) each<kChains>([&]<int c>() { tiles.dot_int8<c, 4, 6>(); });
    return rounds * kChains * kTileRows * kPanelRows * kTileBytes * 2;
}

}  // namespace twofold::TWOFOLD_ISA
