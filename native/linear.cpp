// y_TN = x_TD @ weight_ND^T: activations once to codes (integer weights) or to what tiles take (bf16 ones, where there
// are tiles), then panels of 16 rows over the threads; blocks of tokens, too, where panels are few.
#include "products.h"
#include "scratch.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {

Weight matrix_of(const Weight& weight_END, int64_t index) {
    Weight result = weight_END;
    const int64_t panels = (weight_END.rows + kPanelRows - 1) / kPanelRows;
    const int64_t width = round_up(weight_END.columns, kColumnStep);
    int64_t bytes = 0;
    switch (weight_END.format) {
        case Format::kF32:
            bytes = weight_END.rows * weight_END.columns * 4;
            break;
        case Format::kBf16:
            bytes = weight_END.rows * weight_END.columns * 2;
            break;
        case Format::kInt8:
            bytes = panels * kPanelRows * width;
            break;
        case Format::kInt4:
        case Format::kGroup4:
            bytes = panels * kPanelRows * width / 2;
            break;
        case Format::kFp8:
            bytes = weight_END.rows * weight_END.columns;
            break;
    }
    result.codes = static_cast<const char*>(weight_END.codes) + index * bytes;
    const int64_t scales = weight_END.format == Format::kFp8 ? weight_END.rows : panels * kPanelRows;
    if (weight_END.scales != nullptr) result.scales += index * scales;
    if (weight_END.multipliers != nullptr) result.multipliers += index * panels * (width / kGroupColumns) * 8;
    if (weight_END.halves != nullptr) result.halves += index * panels * (width / kGroupColumns) * 2 * kPanelRows;
    result.matrices = 1;
    return result;
}

Codes from_row(const Codes& codes, int64_t row) {
    return {codes.row(row), codes.scales + row, codes.starts + row, codes.width, codes.stride, codes.sums};
}

Input float_input(const Rows& x_TD, const Weight& next) {
    Input result{false, {}, x_TD};
    if constexpr (kHasTiles) {
        if (next.format == Format::kBf16) result.pairs = pack_pairs(x_TD);
    }
    if constexpr (kHasBf16Dot) {
        if (next.format == Format::kBf16 || next.format == Format::kFp8) result.rounded = round_rows(x_TD);
    }
    return result;
}

void multiply_panels(const Input& x, int64_t first_row, int64_t rows, const Weight& weight_ND, int64_t first,
                     int64_t last, float* y, int64_t stride) {
    float* target = y + first_row * stride + first * kPanelRows;
    if constexpr (kHasTiles) {
        if (x.pairs.data != nullptr)
            return multiply_pairs(x.pairs, first_row, rows, weight_ND, first, last, target, stride);
    }
    if constexpr (kHasBf16Dot) {
        const Rounded& from = x.rounded;
        if (from.data != nullptr)
            return multiply_rounded({from.data + first_row * from.stride, from.stride}, rows, weight_ND, first, last,
                                    target, stride);
    }
    if (!x.is_integer) {
        const Rows part{x.rows.data + first_row * x.rows.stride, rows, x.rows.columns, x.rows.stride};
        return multiply_floats(part, weight_ND, first, last, target, stride);
    }
    multiply_codes(from_row(x.codes, first_row), rows, weight_ND, first, last, target, stride);
}

namespace {

constexpr int64_t kBlockRows = 64;       // of tokens: fewer would not be worth reading a panel for
constexpr int64_t kSharesPerThread = 4;  // below which tokens are shared out too: routers have few panels
constexpr int64_t kBlockStep = 16;       // blocks begin at whole tiles
static_assert(kBlockRows - kBlockStep >= kManyCodes, "a block of many tokens would have no sums of groups");

struct Blocks {
    int64_t rows, count;

    Blocks(int64_t all, int64_t panels) : rows(all) {
        const int64_t wanted = (kSharesPerThread * threads() + panels - 1) / panels;
        count = larger<int64_t>(1, smaller(wanted, rows / kBlockRows));
    }
    int64_t begin(int64_t block) const {
        return block == count ? rows : rows * block / count / kBlockStep * kBlockStep;
    }
};

}  // namespace

void linear(const Rows& x_TD, const Weight& weight_ND, float* y_TN) {
    if (x_TD.rows == 0) return;
    Expanded expanded{{}, nullptr, x_TD.rows};
    if (is_integer(weight_ND)) expanded = quantize_rows(x_TD, has_groups(weight_ND, x_TD.rows));
    const Input input = is_integer(weight_ND) ? Input{true, expanded.codes, {}} : float_input(x_TD, weight_ND);
    const int64_t panels = (weight_ND.rows + kPanelRows - 1) / kPanelRows, rows = expanded.place(x_TD.rows);
    float* y = expanded.places == nullptr ? y_TN : scratch<float>(Slot::kExpanded, rows * weight_ND.rows);
    const Blocks blocks(rows, panels);
    // a share is worth a thread's attention from about 64 thousand products on
    const int64_t grain = 1 + 4096 * blocks.count / (x_TD.columns * rows);
    parallel(blocks.count * panels, grain, [&](int64_t first, int64_t last) {
        while (first < last) {
            const int64_t block = first / panels, panel = first % panels, row = blocks.begin(block);
            const int64_t end = smaller(panels, panel + last - first);
            multiply_panels(input, row, blocks.begin(block + 1) - row, weight_ND, panel, end, y, weight_ND.rows);
            first += end - panel;
        }
    });
    if (expanded.places != nullptr) fold_rows(expanded, y, weight_ND.rows, y_TN);
}

}  // namespace twofold::TWOFOLD_ISA
