// int8 codes of activations, bit for bit as ops.packed.quantize_activations:
//
//     s = max|x| / 127,  code = clip(rint(x * (1 / s)), -127, 127), all in float32; a row of zeros has s = 0
//
// Compiled without contraction. Beside the codes come the sums from which the dot products start.
#include "levels.h"
#include "products.h"
#include "scratch.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

typedef int8_t Codes8 __attribute__((vector_size(kLanes)));

inline F load_at(const float* x_D, int64_t d, int64_t columns) {
    if (d + kLanes <= columns) return load_f32(x_D + d);
    return d < columns ? load_some(x_D + d, columns - d) : F{};
}

float largest_magnitude(const float* x_D, int64_t columns) {
    F most[4] = {};  // chains: the order of a maximum does not matter
    for (int64_t d = 0; d < columns; d += 4 * kLanes)
        for (int i = 0; i < 4; ++i) most[i] = vmax(vabs(load_at(x_D, d + i * kLanes, columns)), most[i]);
    return max_lanes(vmax(vmax(most[0], most[1]), vmax(most[2], most[3])));
}

typedef int32_t Four __attribute__((vector_size(16)));

// Lanes 0, 4, 8 .. added, 1, 5, 9 .. and so on: the sums of each column of the quads.
template <class V>
inline Four sum_quads(V v) {
    if constexpr (sizeof(V) == 64) {
        const auto half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                          __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
        return sum_quads(half);
    } else if constexpr (sizeof(V) == 32) {
        return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
    } else {
        return v;
    }
}

}  // namespace

Codes place_codes(int64_t rows, int64_t columns) {
    Codes result;
    result.width = round_up(columns, kColumnStep);
    result.stride = round_up(result.width + 4 * kGroupSums * (result.width / kGroupColumns), 64);
    char* memory = scratch<char>(Slot::kCodes, rows * (result.stride + 8));
    result.codes = reinterpret_cast<int8_t*>(memory);
    result.starts = reinterpret_cast<int32_t*>(memory + rows * result.stride);
    result.scales = reinterpret_cast<float*>(result.starts + rows);
    return result;
}

void quantize_row(const float* x_D, int64_t columns, const Codes& into, int64_t row) {
    const float scale = largest_magnitude(x_D, columns) / 127.0f;
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    int8_t* codes = into.row(row);
    int32_t* group_starts = into.group_starts(row);
    int32_t total = 0;
    constexpr int64_t kSumColumns = kGroupColumns / kGroupSums;
    for (int64_t part = 0; part < into.width / kSumColumns; ++part) {
        I sums{};
        for (int64_t d = part * kSumColumns; d < (part + 1) * kSumColumns; d += kLanes) {
            const F scaled = load_at(x_D, d, columns) * inverse;
            const I code = round_to_int(vmin(vmax(scaled, broadcast(-127.0f)), broadcast(127.0f)));
            store(codes + d, __builtin_convertvector(code, Codes8));
            sums += code;
        }
        const Four quads = sum_quads(sums), starts = -kLevelOffset * quads;
        group_starts[part] = group_start(starts[0] + starts[1], starts[2] + starts[3]);
        total += quads[0] + quads[1] + quads[2] + quads[3];
    }
    into.starts[row] = -static_cast<int32_t>(kWeightOffset) * total;
    into.scales[row] = scale;
}

void quantize(const Rows& x_TD, int8_t* codes_TD, float* scales_T) {
    const Codes codes = place_codes(x_TD.rows, x_TD.columns);
    for (int64_t row = 0; row < x_TD.rows; ++row) {
        quantize_row(x_TD.data + row * x_TD.stride, x_TD.columns, codes, row);
        __builtin_memcpy(codes_TD + row * x_TD.columns, codes.row(row), static_cast<size_t>(x_TD.columns));
        scales_T[row] = codes.scales[row];
    }
}

}  // namespace twofold::TWOFOLD_ISA
