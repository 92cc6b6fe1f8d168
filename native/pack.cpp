// Making packed weights from float32, float16 or bfloat16 rows; bit for bit what ops/packed.py does (quantize_int8,
// quantize_int4, squared_error, pack_nibbles), which is the scalar version. Compiled without contraction.
//
// A panel is first gathered as floats [column][16 rows], zeros where padded. Lanes are rows: every step is vertical,
// and four columns of 8-bit codes shifted into one 32-bit lane are at once the layout [quad][row][4].
#include "kernels.h"
#include "levels.h"
#include "scratch.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int64_t kRows = kPanelRows;

// One value of the source.
inline float widen(float value) { return value; }
inline float widen(uint16_t bits) { return from_bf16(bits); }
struct Half {
    uint16_t bits;
};
inline float widen(Half half) {
    const uint32_t magnitude = static_cast<uint32_t>(half.bits & 0x7FFF) << 13;
    float value;
    __builtin_memcpy(&value, &magnitude, 4);
    value *= 0x1p112f;  // exact, also for subnormal halves
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    if ((half.bits & 0x7C00) == 0x7C00) bits |= 0x7F800000u;
    bits |= static_cast<uint32_t>(half.bits & 0x8000) << 16;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

template <class T>
void gather(const SourceRows& from, int64_t first, int64_t width, float* panel) {
    const T* data = static_cast<const T*>(from.data) + first * from.row_stride;
    const int64_t rows = smaller(kRows, from.rows - first);
    if (rows < kRows) __builtin_memset(panel, 0, static_cast<size_t>(width * kRows) * sizeof(float));
    if (from.row_stride == 1) {  // a transposed view: rows lie side by side
        for (int64_t d = 0; d < from.columns; ++d)
            for (int64_t r = 0; r < rows; ++r) panel[d * kRows + r] = widen(data[d * from.column_stride + r]);
    } else {
        for (int64_t d = 0; d < from.columns; ++d)
            for (int64_t r = 0; r < rows; ++r)
                panel[d * kRows + r] = widen(data[r * from.row_stride + d * from.column_stride]);
    }
    const int64_t padding = (width - from.columns) * kRows;
    __builtin_memset(panel + from.columns * kRows, 0, static_cast<size_t>(padding) * sizeof(float));
}

void gather_panel(const SourceRows& from, int64_t first, int64_t width, float* panel) {
    switch (from.type) {
        case Source::kF32:
            return gather<float>(from, first, width, panel);
        case Source::kF16:
            return gather<Half>(from, first, width, panel);
        case Source::kBf16:
            return gather<uint16_t>(from, first, width, panel);
    }
}

// kLanes rows of a panel: column d is at lanes + d * kRows. Each returns the scales.
F inverse_of(F scale) { return select(scale > 0.0f, 1.0f / scale, F{}); }

F scale_of(const float* lanes, int64_t width, float divisor) {
    F most{};
    for (int64_t d = 0; d < width; ++d) most = vmax(vabs(load_f32(lanes + d * kRows)), most);
    return most / divisor;
}

F pack_int8(const float* lanes, int64_t width, int8_t* codes) {
    const F scale = scale_of(lanes, width, 127.0f), inverse = inverse_of(scale);
    for (int64_t quad = 0; quad < width / 4; ++quad) {
        I packed{};
        for (int i = 0; i < 4; ++i) {
            const F scaled = load_f32(lanes + (4 * quad + i) * kRows) * inverse;
            const I code = round_to_int(vmin(vmax(scaled, broadcast(-127.0f)), broadcast(127.0f)));
            packed |= (code & 255) << (8 * i);
        }
        store(codes + quad * 4 * kRows, packed);
    }
    return scale;
}

// One candidate multiplier for a group in units of the scale: the squared error.
F try_multiplier(const F (&units)[32], F m) {
    const F inverse = 1.0f / m;
    F terms[32];
    for (int c = 0; c < 32; ++c) {
        const F difference = units[c] - look_up(kNearest.levels, cell_of(units[c] * inverse)) * m;
        terms[c] = difference * difference;
    }
    for (int half = 16; half > 0; half /= 2)
        for (int c = 0; c < half; ++c) terms[c] = terms[c] + terms[c + half];
    return terms[0];
}

// The best of six multipliers and its codes.
I choose_multiplier(const F (&units)[32], I (&stored)[32]) {
    F most = broadcast(-1.0f), extreme{};
    for (int c = 0; c < 32; ++c) {
        const I wider = vabs(units[c]) > most;
        most = select(wider, vabs(units[c]), most);
        extreme = select(wider, units[c], extreme);
    }
    const F sign = select(extreme > 0.0f, broadcast(-1.0f), broadcast(1.0f));
    const F least = vabs(extreme) * (1.0f / 15.0f), nearest = (least + kRoundMagic) - kRoundMagic;
    const F covering = select(nearest < least, nearest + 1.0f, nearest);
    F best_error = broadcast(__builtin_inff()), best_m = broadcast(1.0f);
    for (int i = 0; i < 6; ++i) {
        const float step = static_cast<float>(i % 3 - 1);
        const F size = vmin(vmax(covering + step, broadcast(1.0f)), broadcast(8.0f));
        const F m = i < 3 ? size * sign : -size * sign;
        const F error = try_multiplier(units, m);
        const I better = error < best_error;
        best_error = select(better, error, best_error);
        best_m = select(better, m, best_m);
    }
    const F inverse = 1.0f / best_m;
    for (int c = 0; c < 32; ++c) stored[c] = round_to_int(look_up(kNearest.codes, cell_of(units[c] * inverse)));
    const I m = round_to_int(best_m);
    return m + (m < 0 ? broadcast(8) : broadcast(7));
}

F pack_int4(const float* lanes, int64_t width, uint8_t* codes, int32_t* stored_multipliers) {
    const F scale = scale_of(lanes, width, 120.0f), inverse = inverse_of(scale);
    for (int64_t group = 0; group < width / kGroupColumns; ++group) {
        F units[32];
        for (int c = 0; c < 32; ++c) units[c] = load_f32(lanes + (group * kGroupColumns + c) * kRows) * inverse;
        I stored[32];
        store(stored_multipliers + group * kRows, choose_multiplier(units, stored));
        for (int j = 0; j < 4; ++j) {
            I packed{};
            for (int i = 0; i < 4; ++i) packed |= (stored[4 * j + i] | stored[16 + 4 * j + i] << 4) << (8 * i);
            store(codes + (group * 4 + j) * 4 * kRows, packed);
        }
    }
    return scale;
}

// Takes what an Int4 panel already holds off its rows: panel -= float(m * q) * scale.
void subtract_panel(const Weight& coarse, int64_t index, int64_t width, float* panel) {
    const int64_t groups = width / kGroupColumns;
    const uint8_t* codes = static_cast<const uint8_t*>(coarse.codes) + index * 8 * width;
    const uint8_t* multipliers = coarse.multipliers + index * groups * 8;
    for (int64_t group = 0; group < groups; ++group, codes += 256, multipliers += 8)
        for (int row = 0; row < kRows; ++row) {
            const int stored = row < 8 ? multipliers[row] & 15 : multipliers[row - 8] >> 4;
            const int m = stored < 8 ? stored - 8 : stored - 7;
            for (int c = 0; c < kGroupColumns; ++c) {
                const int both = codes[c % 16 / 4 * 64 + row * 4 + c % 4], q = kLevels[c < 16 ? both & 15 : both >> 4];
                panel[(group * kGroupColumns + c) * kRows + row] -=
                    static_cast<float>(m * q) * coarse.scales[index * kRows + row];
            }
        }
}

void encode_panel(const float* panel, int64_t width, const WeightOut& into, int64_t index) {
    const int64_t groups = width / kGroupColumns;
    int32_t* stored = scratch<int32_t>(Slot::kPanel, groups * kRows);
    for (int part = 0; part < kParts; ++part) {
        const float* lanes = panel + part * kLanes;
        F scale;
        if (into.format == Format::kInt8)
            scale = pack_int8(lanes, width, static_cast<int8_t*>(into.codes) + index * 16 * width + part * 4 * kLanes);
        else
            scale = pack_int4(lanes, width, static_cast<uint8_t*>(into.codes) + index * 8 * width + part * 4 * kLanes,
                              stored + part * kLanes);
        store(into.scales + index * kRows + part * kLanes, scale);
    }
    if (into.format == Format::kInt8) return;
    uint8_t* multipliers = into.multipliers + index * groups * 8;
    for (int64_t group = 0; group < groups; ++group, stored += kRows)
        for (int row = 0; row < 8; ++row)
            multipliers[group * 8 + row] = static_cast<uint8_t>(stored[row] | stored[row + 8] << 4);
}

inline void narrow(float value, float* to) { *to = value; }
inline void narrow(float value, uint16_t* to) { *to = to_bf16(value); }

// Rows first <= row < last of a dense weight. Columns far apart (a transposed source) pass through a small tile, so
// that each of their cache lines is read once: they often share one set of the first-level cache.
template <class T, class To>
void copy_rows(const SourceRows& from, int64_t first, int64_t last, To* to_ND) {
    constexpr int64_t kTileRows = 32, kTileColumns = 64;
    const T* data = static_cast<const T*>(from.data);
    if (from.column_stride == 1) {
        for (int64_t row = first; row < last; ++row)
            for (int64_t d = 0; d < from.columns; ++d)
                narrow(widen(data[row * from.row_stride + d]), to_ND + row * from.columns + d);
        return;
    }
    for (int64_t row = first; row < last; row += kTileRows)
        for (int64_t d = 0; d < from.columns; d += kTileColumns) {
            const int64_t rows = smaller(kTileRows, last - row), columns = smaller(kTileColumns, from.columns - d);
            To tile[kTileRows][kTileColumns];
            for (int64_t i = 0; i < columns; ++i)
                for (int64_t r = 0; r < rows; ++r)
                    narrow(widen(data[(row + r) * from.row_stride + (d + i) * from.column_stride]), &tile[r][i]);
            for (int64_t r = 0; r < rows; ++r)
                __builtin_memcpy(to_ND + (row + r) * from.columns + d, tile[r],
                                 static_cast<size_t>(columns) * sizeof(To));
        }
}

template <class To>
void copy_dense(const SourceRows& from, int64_t grain, To* to_ND) {
    parallel(from.rows, grain, [&](int64_t first, int64_t last) {
        switch (from.type) {
            case Source::kF32:
                return copy_rows<float>(from, first, last, to_ND);
            case Source::kF16:
                return copy_rows<Half>(from, first, last, to_ND);
            case Source::kBf16:
                return copy_rows<uint16_t>(from, first, last, to_ND);
        }
    });
}

}  // namespace

void encode(const SourceRows& rows_ND, const Weight* coarse_ND, const WeightOut& into, int64_t first_row) {
    const int64_t grain = 1 + 65536 / (kRows * into.columns);
    const int64_t place = first_row * into.columns;
    if (into.format == Format::kF32) return copy_dense(rows_ND, grain * kRows, static_cast<float*>(into.codes) + place);
    if (into.format == Format::kBf16)
        return copy_dense(rows_ND, grain * kRows, static_cast<uint16_t*>(into.codes) + place);
    const int64_t width = round_up(into.columns, kColumnStep);
    parallel((rows_ND.rows + kRows - 1) / kRows, grain, [&](int64_t first, int64_t last) {
        float* panel = scratch<float>(Slot::kRows, width * kRows);
        for (int64_t index = first; index < last; ++index) {
            gather_panel(rows_ND, index * kRows, width, panel);
            if (coarse_ND != nullptr) subtract_panel(*coarse_ND, first_row / kRows + index, width, panel);
            encode_panel(panel, width, into, first_row / kRows + index);
        }
    });
}

}  // namespace twofold::TWOFOLD_ISA
