// What linear, experts and route share: products of contiguous activation rows with panels of 16 weight rows.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {

// Activations as int8 codes, one scale per row, and the two corrections that the ISA's dot products start from
// (isa/*.h). A row has zeros from `columns` to width (a multiple of 64), then the corrections of its groups and their
// sums as floats: what is read together lies together, and rows are rarely a power of two apart, which would crowd a
// few sets of the cache.
struct Codes {
    int8_t* codes;
    float* scales;
    int32_t* starts;        // [rows]: -kWeightOffset * sum of codes
    int64_t width, stride;  // bytes
    int64_t sums;           // where a row's float sums begin, bytes

    int8_t* row(int64_t index) const { return codes + index * stride; }
    // kGroupSums of each group.
    int32_t* group_starts(int64_t index) const { return reinterpret_cast<int32_t*>(row(index) + width); }
    float* group_sums(int64_t index) const { return reinterpret_cast<float*>(row(index) + sums); }
};

// Codes over this thread's scratch, to be filled row by row; quantize_row leaves the sums of groups out.
Codes place_codes(int64_t rows, int64_t columns);
Codes from_row(const Codes& codes, int64_t row);  // the rows from `row` on
void quantize_row(const float* x_D, int64_t columns, const Codes& into, int64_t row);

// Rows as an integer weight takes them: of a wide row (ops/activations.py) the second codes lie behind the first.
struct Expanded {
    Codes codes;
    const int64_t* places;  // [rows + 1]: where each row's codes begin; null where none is wide
    int64_t rows;

    int64_t place(int64_t row) const { return places == nullptr ? row : places[row]; }
};
// has_groups: with the sums of groups, which four-bit weights take. Row i is row picks[i] of the data.
Expanded quantize_rows(const Rows& x_TD, bool has_groups, const int32_t* picks = nullptr);
// Products of the rows [rows, N] from those of all codes [place(rows), N].
void fold_rows(const Expanded& x, const float* products, int64_t columns, float* y_TN);

// Activations for bf16 weights on tiles (tiles_bf16.cpp), where kHasTiles.
struct Pairs {
    const uint16_t* data = nullptr;  // null: not packed
    int64_t steps = 0;               // of 32 columns
};
Pairs pack_pairs(const Rows& x_TD);
// As the functions below, of the packed rows from `first_row` on; y points at the first one's output.
void multiply_pairs(const Pairs& x, int64_t first_row, int64_t rows, const Weight& weight_ND, int64_t first,
                    int64_t last, float* y, int64_t stride);

// Activations for bf16 and float8 weights in pairs (isa/bf16_dot.h), where kHasBf16Dot: rounded to bf16.
struct Rounded {
    const uint16_t* data = nullptr;  // null: not rounded
    int64_t stride = 0;
};
Rounded round_rows(const Rows& x_TD);
// As the functions below.
void multiply_rounded(const Rounded& x, int64_t rows, const Weight& weight_ND, int64_t first, int64_t last, float* y,
                      int64_t stride);

// y[t, n - 16 * first] for the rows n of panels first <= panel < last; y points at column 16 * first of row 0.
void multiply_codes(const Codes& x, int64_t tokens, const Weight& weight_ND, int64_t first, int64_t last, float* y,
                    int64_t stride);
void multiply_groups(const Codes& x, int64_t tokens, const Weight& weight_ND, int64_t first, int64_t last, float* y,
                     int64_t stride);
void multiply_floats(const Rows& x_TD, const Weight& weight_ND, int64_t first, int64_t last, float* y, int64_t stride);

// Any of them, with y at column 0: what a parallel region over panels calls.
struct Input {
    bool is_integer;
    Codes codes;
    Rows rows;
    Pairs pairs = {};
    Rounded rounded = {};
};
// Rows as a weight that is no integer takes them.
Input float_input(const Rows& x_TD, const Weight& next);
inline bool has_groups(const Weight& weight) {
    return weight.format == Format::kInt4 || weight.format == Format::kGroup4;
}
// From so many tokens on four-bit codes are unpacked, or go to AMX tiles (reckoned from cycles, not measured); then
// Int4 weights do without the sums of groups, unless they become levels.
constexpr int64_t kManyCodes = kHasTiles ? 8 : kUnpackFrom;
inline bool has_groups(const Weight& weight, int64_t tokens) {
    return has_groups(weight) && (weight.format == Format::kGroup4 || kUnpacksLevels || tokens < kManyCodes);
}
inline bool is_integer(const Weight& weight) { return weight.format == Format::kInt8 || has_groups(weight); }
void multiply_panels(const Input& x, int64_t first_row, int64_t rows, const Weight& weight_ND, int64_t first,
                     int64_t last, float* y, int64_t stride);

// Matrix `index` of a stack.
Weight matrix_of(const Weight& weight_END, int64_t index);

}  // namespace twofold::TWOFOLD_ISA
