// int8 codes of activations, bit for bit as ops.activations.quantize_activations:
//
//     s = max|x| / 127,  code = clip(rint(x * (1 / s)), -127, 127), all in float32; a row of zeros has s = 0
//     a wide row has second codes, rint((x * (1 / s) - code) * 254), in steps of s / 254
//
// Compiled without contraction. Beside the codes come the sums from which the dot products start.
#include "levels.h"
#include "products.h"
#include "scratch.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int64_t kBlockColumns = 128;  // ops/activations.py
constexpr float kWideRatio = 8.0f, kRestSteps = 254.0f;

[[gnu::noinline]] F load_at(const float* x_D, int64_t d, int64_t columns) {
    if (d + kLanes <= columns) return load_f32(x_D + d);
    return d < columns ? load_some(x_D + d, columns - d) : F{};
}

// The largest magnitude of a row, and whether the row is wide.
struct Peak {
    float most;
    int32_t is_wide;
};

float largest_magnitude(const float* x_D, int64_t first, int64_t last) {
    F most[4] = {};  // chains: the order of a maximum does not matter
    int64_t d = first;
    for (; d + 4 * kLanes <= last; d += 4 * kLanes)
        for (int i = 0; i < 4; ++i) most[i] = vmax(vabs(load_f32(x_D + d + i * kLanes)), most[i]);
    for (; d < last; d += kLanes) most[0] = vmax(vabs(load_at(x_D, d, last)), most[0]);
    return max_lanes(vmax(vmax(most[0], most[1]), vmax(most[2], most[3])));
}

Peak peak_of(const float* x_D, int64_t columns) {
    float most = 0.0f, least = __builtin_inff();
    for (int64_t d = 0; d < columns; d += kBlockColumns) {
        const float here = largest_magnitude(x_D, d, smaller(d + kBlockColumns, columns));
        most = larger(here, most);
        if (here > 0.0f) least = smaller(here, least);
    }
    if (least * kWideRatio < most || most == 0.0f) return {most, most != 0.0f};
    const float inverse = 1.0f / (most / 127.0f);
    I balance{};  // two for each code that is not 0 (half goes to even), less one for each value
    const auto count = [&](F value) { balance += (vabs(value) > 0.0f) - 2 * (vabs(value) * inverse > 0.5f); };
    int64_t d = 0;
    for (; d + kLanes <= columns; d += kLanes) count(load_f32(x_D + d));
    if (d < columns) count(load_some(x_D + d, columns - d));
    return {most, sum_lanes(balance) < 0};
}

}  // namespace

Codes place_codes(int64_t rows, int64_t columns) {
    Codes result;
    result.width = round_up(columns, kColumnStep);
    const int64_t groups = result.width / kGroupColumns;
    result.sums = result.width + 4 * kGroupSums * groups;
    result.stride = round_up(result.sums + 4 * groups, 64);
    char* memory = scratch<char>(Slot::kCodes, rows * (result.stride + 8));
    result.codes = reinterpret_cast<int8_t*>(memory);
    result.starts = reinterpret_cast<int32_t*>(memory + rows * result.stride);
    result.scales = reinterpret_cast<float*>(result.starts + rows);
    return result;
}

namespace {

// Codes of one row and what its dot products start from; `code_of` gives those of kLanes values.
template <class CodeOf>
inline void write_codes(const float* x_D, int64_t columns, const Codes& into, int64_t row, CodeOf code_of) {
    int8_t* codes = into.row(row);
    I sums{};
    const auto write = [&](int64_t d, F values) {
        const I code = code_of(values);
        store_codes(codes + d, code);
        sums += code;
    };
    int64_t d = 0;
    for (; d + kLanes <= columns; d += kLanes) write(d, load_f32(x_D + d));
    for (; d < into.width; d += kLanes) write(d, load_at(x_D, d, columns));
    into.starts[row] = -static_cast<int32_t>(kWeightOffset) * sum_lanes(sums);
}

// The same with the sums of groups, for the parts of kLanes groups at a time: their lanes are added by one
// transposition.
template <class CodeOf>
inline void write_grouped_codes(const float* x_D, int64_t columns, const Codes& into, int64_t row, CodeOf code_of) {
    constexpr int64_t kPartColumns = kGroupColumns / kGroupSums;
    const I is_front = (lane_numbers() & 2) == 0;  // columns 0 and 1 of the quads
    int8_t* codes = into.row(row);
    int32_t* starts = into.group_starts(row);
    float* group_sums = into.group_sums(row);
    I all{};
    for (int64_t first = 0, parts = into.width / kPartColumns; first < parts; first += kLanes) {
        const int64_t count = smaller<int64_t>(kLanes, parts - first);
        I sums[kLanes], fronts[kLanes];
        const auto write_part = [&](int64_t i, const auto& values_at) {
            sums[i] = I{};
            for (int64_t d = (first + i) * kPartColumns, end = d + kPartColumns; d < end; d += kLanes) {
                const I code = code_of(values_at(d));
                store_codes(codes + d, code);
                sums[i] += code;
            }
        };
        if ((first + kLanes) * kPartColumns <= columns) {
#pragma GCC unroll 16  // so that sums stay in registers
            for (int64_t i = 0; i < kLanes; ++i) write_part(i, [&](int64_t d) { return load_f32(x_D + d); });
        } else {
#pragma GCC unroll 16
            for (int64_t i = 0; i < kLanes; ++i) {
                sums[i] = I{};
                if (i < count) write_part(i, [&](int64_t d) { return load_at(x_D, d, columns); });
            }
        }
        for (int i = 0; i < kLanes; ++i) fronts[i] = sums[i] & is_front;
        const I totals = sum_each(sums), front = kSplitStarts ? sum_each(fronts) : I{};
        all += totals;
        for (int64_t i = 0; i < count; ++i)
            starts[first + i] = group_start(-kLevelOffset * front[i], -kLevelOffset * (totals[i] - front[i]));
        for (int64_t i = 0; i < count; i += kGroupSums) {
            int32_t total = totals[i];
            if constexpr (kGroupSums == 2) total += totals[i + 1];
            group_sums[(first + i) / kGroupSums] = static_cast<float>(total);
        }
    }
    into.starts[row] = -static_cast<int32_t>(kWeightOffset) * sum_lanes(all);
}

inline I nearest_code(F scaled) { return round_to_int(vmin(vmax(scaled, broadcast(-127.0f)), broadcast(127.0f))); }

void quantize_peak(const float* x_D, int64_t columns, Peak peak, bool has_groups, const Codes& into, int64_t row) {
    const float scale = peak.most / 127.0f, inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    const auto write = [&](int64_t to, float own_scale, auto code_of) {
        into.scales[to] = own_scale;
        if (has_groups)
            write_grouped_codes(x_D, columns, into, to, code_of);
        else
            write_codes(x_D, columns, into, to, code_of);
    };
    write(row, scale, [=](F values) { return nearest_code(values * inverse); });
    if (!peak.is_wide) return;
    write(row + 1, scale * (1.0f / kRestSteps), [=](F values) {
        const F scaled = values * inverse;
        return round_to_int((scaled - __builtin_convertvector(nearest_code(scaled), F)) * kRestSteps);
    });
}

}  // namespace

void quantize_row(const float* x_D, int64_t columns, const Codes& into, int64_t row) {
    quantize_peak(x_D, columns, {largest_magnitude(x_D, 0, columns), false}, false, into, row);
}

Expanded quantize_rows(const Rows& x_TD, bool has_groups, const int32_t* picks) {
    const int64_t rows = x_TD.rows, columns = x_TD.columns, grain = 1 + 4096 / columns;
    int64_t* places = scratch<int64_t>(Slot::kPlaces, 2 * rows + 1);
    Peak* peaks = reinterpret_cast<Peak*>(places + rows + 1);
    const auto data = [&](int64_t row) { return x_TD.data + (picks == nullptr ? row : picks[row]) * x_TD.stride; };
    parallel(rows, grain, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) peaks[row] = peak_of(data(row), columns);
    });
    places[0] = 0;
    for (int64_t row = 0; row < rows; ++row) places[row + 1] = places[row] + 1 + peaks[row].is_wide;
    const Codes codes = place_codes(places[rows], columns);
    parallel(rows, grain, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row)
            quantize_peak(data(row), columns, peaks[row], has_groups, codes, places[row]);
    });
    return {codes, places[rows] == rows ? nullptr : places, rows};
}

void fold_rows(const Expanded& x, const float* products, int64_t columns, float* y_TN) {
    parallel(x.rows, 1 + 8192 / columns, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
            const float* from = products + x.place(row) * columns;
            float* y_N = y_TN + row * columns;
            if (x.place(row + 1) - x.place(row) == 1)
                __builtin_memcpy(y_N, from, static_cast<size_t>(columns) * sizeof(float));
            else
                for (int64_t n = 0; n < columns; ++n) y_N[n] = from[n] + from[columns + n];
        }
    });
}

int64_t quantize(const Rows& x_TD, int8_t* codes_RD, float* scales_R, int64_t* places) {
    const Expanded x = quantize_rows(x_TD, false);
    for (int64_t row = 0; row <= x_TD.rows; ++row) places[row] = x.place(row);
    for (int64_t row = 0; row < places[x_TD.rows]; ++row) {
        __builtin_memcpy(codes_RD + row * x_TD.columns, x.codes.row(row), static_cast<size_t>(x_TD.columns));
        scales_R[row] = x.codes.scales[row];
    }
    return places[x_TD.rows];
}

}  // namespace twofold::TWOFOLD_ISA
