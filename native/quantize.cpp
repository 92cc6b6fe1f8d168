// int8 codes of activations, bit for bit as ops.packed.quantize_activations:
//
//     s = max|x| / 127,  code = clip(rint(x * (1 / s)), -127, 127), all in float32; a row of zeros has s = 0
//
// Compiled without contraction. Beside the codes come the sums from which the dot products start.
#include "products.h"
#include "scratch.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

typedef int8_t Codes8 __attribute__((vector_size(kLanes)));

float largest_magnitude(const float* x_D, int64_t columns) {
    F most{};
    int64_t d = 0;
    for (; d + kLanes <= columns; d += kLanes) most = vmax(vabs(load_f32(x_D + d)), most);
    if (d < columns) most = vmax(vabs(load_some(x_D + d, columns - d)), most);
    return max_lanes(most);
}

inline void code_lanes(F x, F inverse, int8_t* codes) {
    const F scaled = vmin(vmax(x * inverse, broadcast(-127.0f)), broadcast(127.0f));
    store(codes, __builtin_convertvector(round_to_int(scaled), Codes8));
}

}  // namespace

Codes place_codes(int64_t rows, int64_t columns) {
    Codes result;
    result.width = round_up(columns, kColumnStep);
    const int64_t groups = result.width / kGroupColumns;
    char* memory = scratch<char>(Slot::kCodes, rows * (result.width + 4 * groups + 8) + 128);
    result.codes = reinterpret_cast<int8_t*>(memory);
    result.group_starts = reinterpret_cast<int32_t*>(memory + rows * result.width);
    result.starts = result.group_starts + rows * groups;
    result.scales = reinterpret_cast<float*>(result.starts + rows);
    return result;
}

void quantize_row(const float* x_D, int64_t columns, const Codes& into, int64_t row) {
    const float scale = largest_magnitude(x_D, columns) / 127.0f;
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    int8_t* codes = into.codes + row * into.width;
    int64_t d = 0;
    for (; d + kLanes <= columns; d += kLanes) code_lanes(load_f32(x_D + d), broadcast(inverse), codes + d);
    if (d < columns) code_lanes(load_some(x_D + d, columns - d), broadcast(inverse), codes + d);
    d = round_up(columns, kLanes);
    __builtin_memset(codes + d, 0, static_cast<size_t>(into.width - d));

    int32_t total = 0;
    int32_t* group_starts = into.group_starts + row * (into.width / kGroupColumns);
    for (int64_t group = 0; group < into.width / kGroupColumns; ++group) {
        int32_t sums[4] = {};
        for (int i = 0; i < kGroupColumns; ++i) sums[i % 4] += codes[group * kGroupColumns + i];
        group_starts[group] = group_start(sums[0] + sums[1], sums[2] + sums[3]);
        total += sums[0] + sums[1] + sums[2] + sums[3];
    }
    into.starts[row] = -static_cast<int32_t>(kWeightOffset) * total;
    into.scales[row] = scale;
}

void quantize(const Rows& x_TD, int8_t* codes_TD, float* scales_T) {
    const Codes codes = place_codes(x_TD.rows, x_TD.columns);
    for (int64_t row = 0; row < x_TD.rows; ++row) {
        quantize_row(x_TD.data + row * x_TD.stride, x_TD.columns, codes, row);
        __builtin_memcpy(codes_TD + row * x_TD.columns, codes.codes + row * codes.width,
                         static_cast<size_t>(x_TD.columns));
        scales_T[row] = codes.scales[row];
    }
}

}  // namespace twofold::TWOFOLD_ISA
