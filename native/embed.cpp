// Rows of an embedding table of any format, decoded: float(integer) * scale, as ops.packed.decode.
#include "kernels.h"
#include "levels.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

int multiplier_of(const uint8_t* stored, int64_t row) {
    const int n = row < 8 ? stored[row] & 15 : stored[row - 8] >> 4;
    return n < 8 ? n - 8 : n - 7;
}

void decode_int8(const Weight& table, int64_t token, float* x_D) {
    const int64_t width = round_up(table.columns, kColumnStep), row = token % 16;
    const int8_t* panel = static_cast<const int8_t*>(table.codes) + token / 16 * 16 * width + row * 4;
    const float scale = table.scales[token];
    for (int64_t d = 0; d < table.columns; ++d) x_D[d] = static_cast<float>(panel[d / 4 * 64 + d % 4]) * scale;
}

void decode_int4(const Weight& table, int64_t token, float* x_D) {
    const int64_t width = round_up(table.columns, kColumnStep), groups = width / kGroupColumns, row = token % 16;
    const uint8_t* panel = static_cast<const uint8_t*>(table.codes) + token / 16 * 8 * width;
    const uint8_t* multipliers = table.multipliers + token / 16 * groups * 8;
    for (int64_t group = 0; group * kGroupColumns < table.columns; ++group) {
        const int multiplier = multiplier_of(multipliers + group * 8, row);
        float values[16], decoded[kGroupColumns];
        for (int level = 0; level < 16; ++level)
            values[level] = static_cast<float>(kLevels[level] * multiplier) * table.scales[token];
        for (int64_t low = 0; low < 16; ++low) {
            const uint8_t both = panel[group * 256 + low / 4 * 64 + row * 4 + low % 4];
            decoded[low] = values[both & 15];
            decoded[low + 16] = values[both >> 4];
        }
        const int64_t first = group * kGroupColumns, count = smaller(kGroupColumns, table.columns - first);
        __builtin_memcpy(x_D + first, decoded, static_cast<size_t>(count) * sizeof(float));
    }
}

void decode_group4(const Weight& table, int64_t token, float* x_D) {
    const int64_t groups = round_up(table.columns, kColumnStep) / kGroupColumns, row = token % 16;
    const uint8_t* panel = static_cast<const uint8_t*>(table.codes) + token / 16 * groups * 256;
    const uint16_t* halves = table.halves + token / 16 * groups * 2 * kPanelRows;
    for (int64_t d = 0; d < table.columns; ++d) {
        const int64_t group = d / kGroupColumns, column = d % kGroupColumns, low = column % 16;
        const int both = panel[group * 256 + low / 4 * 64 + row * 4 + low % 4];
        const uint16_t* pair = halves + group * 2 * kPanelRows + row / kLanes * kLanes;
        const float scale = load_f16(pair)[row % kLanes], zero = load_f16(pair + kPanelRows)[row % kLanes];
        x_D[d] = (static_cast<float>(column < 16 ? both & 15 : both >> 4) - zero) * scale;
    }
}

void decode_fp8(const Weight& table, int64_t token, float* x_D) {
    const uint8_t* row = static_cast<const uint8_t*>(table.codes) + token * table.columns;
    for (int64_t d = 0; d < table.columns; d += kLanes) {
        const int64_t count = smaller<int64_t>(kLanes, table.columns - d);
        uint8_t some[kLanes] = {};
        __builtin_memcpy(some, row + d, static_cast<size_t>(count));
        store_some(x_D + d, load_fp8(some) * table.scales[token], count);
    }
}

}  // namespace

void embed(const Weight& table_VD, const int32_t* tokens_T, int64_t tokens, float* x_TD) {
    const int64_t columns = table_VD.columns;
    parallel(tokens, 1 + 8192 / columns, [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t) {
            const int64_t token = tokens_T[t];
            float* x_D = x_TD + t * columns;
            switch (table_VD.format) {
                case Format::kF32:
                    __builtin_memcpy(x_D, static_cast<const float*>(table_VD.codes) + token * columns,
                                     static_cast<size_t>(columns) * sizeof(float));
                    break;
                case Format::kBf16: {
                    const uint16_t* row = static_cast<const uint16_t*>(table_VD.codes) + token * columns;
                    for (int64_t d = 0; d < columns; ++d) x_D[d] = from_bf16(row[d]);
                    break;
                }
                case Format::kInt8:
                    decode_int8(table_VD, token, x_D);
                    break;
                case Format::kInt4:
                    decode_int4(table_VD, token, x_D);
                    break;
                case Format::kGroup4:
                    decode_group4(table_VD, token, x_D);
                    break;
                case Format::kFp8:
                    decode_fp8(table_VD, token, x_D);
                    break;
            }
        }
    });
}

}  // namespace twofold::TWOFOLD_ISA
