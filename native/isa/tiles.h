// Tiles: eight registers of up to 16 rows of 64 bytes, and one instruction that multiplies two of them into a third:
//
//     C[m, n] += sum over k < 16, i < 4 of A[m, 4k + i] * B[k, 4n + i]     int8 * int8 -> int32
//     C[m, n] += sum over k < 16, i < 2 of A[m, 2k + i] * B[k, 2n + i]     bf16 * bf16 -> float32
//
// A is 16 tokens of 64 codes, B sixteen quads of one panel as they lie in memory (ops/layout.py), C 16 x 16 sums.
// bf16: A is 16 query rows of 32 items, B sixteen pairs of a panel of keys or values (kv.h).
// Two builds of the same functions: AMX, and plain loops (ISA amx_emulated), by which whatever is written for tiles is
// tested on every machine. The emulation stops the program where the instruction would fault.
#pragma once

#include <cstdint>
#include <cstring>

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kTileCount = 8, kTileRows = 16, kTileBytes = 64;

// Rows of each tile; all of them have 64 bytes in a row.
struct TileRows {
    uint8_t of[kTileCount];
};

// body.operator()<0>(), <1>() .. <N - 1>(): the numbers of tiles are part of the instructions.
template <int N, class Body>
inline void each(const Body& body) {
    if constexpr (N > 0) {
        each<N - 1>(body);
        body.template operator()<N - 1>();
    }
}

#if defined(TWOFOLD_USE_AVX512AMX)

// Written as assembly: GCC's intrinsics do not tell the compiler which memory they read (its _tile_loadconfig names
// eight bytes of 64, tile loads none), so that it may drop or move the stores before them.
class Tiles {
  public:
    ~Tiles() { asm volatile("tilerelease"); }

    // Zeroes all tiles.
    void configure(const TileRows& rows) {
        struct {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t bytes[16] = {};
            uint8_t rows[16] = {};
        } setting;
        static_assert(sizeof(setting) == 64);
        for (int i = 0; i < kTileCount; ++i) setting.bytes[i] = kTileBytes, setting.rows[i] = rows.of[i];
        asm volatile("ldtilecfg %0" ::"m"(setting));
    }
    template <int kTile>
    void zero() {
        asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
    }
    template <int kTile>
    void load(const void* from, int64_t stride_bytes) {
        asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(kTile), "r"(from), "r"(stride_bytes) : "memory");
    }
    template <int kTile>
    void store(void* to, int64_t stride_bytes) const {
        asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(kTile), "r"(to), "r"(stride_bytes) : "memory");
    }
    template <int kC, int kA, int kB>
    void dot_int8() {
        asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
    }
    template <int kC, int kA, int kB>
    void dot_bf16() {
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
    }
};

#else

class Tiles {
  public:
    void configure(const TileRows& rows) {
        rows_ = rows;
        __builtin_memset(data_, 0, sizeof(data_));
        for (const uint8_t count : rows_.of)
            if (count == 0 || count > kTileRows) __builtin_trap();
    }
    template <int kTile>
    void zero() {
        if (rows_.of[kTile] == 0) __builtin_trap();
        __builtin_memset(data_[kTile], 0, sizeof(data_[kTile]));
    }
    template <int kTile>
    void load(const void* from, int64_t stride_bytes) {
        zero<kTile>();
        for (int row = 0; row < rows_.of[kTile]; ++row)
            __builtin_memcpy(data_[kTile][row], static_cast<const char*>(from) + row * stride_bytes, kTileBytes);
    }
    template <int kTile>
    void store(void* to, int64_t stride_bytes) const {
        if (rows_.of[kTile] == 0) __builtin_trap();
        for (int row = 0; row < rows_.of[kTile]; ++row)
            __builtin_memcpy(static_cast<char*>(to) + row * stride_bytes, data_[kTile][row], kTileBytes);
    }
    template <int kC, int kA, int kB>
    void dot_int8() {
        static_assert(kC != kA && kC != kB && kA != kB);
        if (rows_.of[kC] == 0 || rows_.of[kC] != rows_.of[kA] || rows_.of[kB] != kTileRows) __builtin_trap();
        for (int m = 0; m < rows_.of[kC]; ++m) {
            int32_t sums[16];
            __builtin_memcpy(sums, data_[kC][m], kTileBytes);
            for (int k = 0; k < kTileRows; ++k)
                for (int n = 0; n < 16; ++n)
                    for (int i = 0; i < 4; ++i) sums[n] += data_[kA][m][4 * k + i] * data_[kB][k][4 * n + i];
            __builtin_memcpy(data_[kC][m], sums, kTileBytes);
        }
    }

    // Even and odd items are summed by themselves, in order, and added to C at the end.
    template <int kC, int kA, int kB>
    void dot_bf16() {
        static_assert(kC != kA && kC != kB && kA != kB);
        if (rows_.of[kC] == 0 || rows_.of[kC] != rows_.of[kA] || rows_.of[kB] != kTileRows) __builtin_trap();
        for (int m = 0; m < rows_.of[kC]; ++m)
            for (int n = 0; n < 16; ++n) {
                float sums[2] = {}, c;
                for (int k = 0; k < kTileRows; ++k)
                    for (int i = 0; i < 2; ++i)
                        sums[i] += bf16_at(data_[kA][m], 2 * k + i) * bf16_at(data_[kB][k], 2 * n + i);
                __builtin_memcpy(&c, data_[kC][m] + 4 * n, 4);
                c += sums[0] + sums[1];
                __builtin_memcpy(data_[kC][m] + 4 * n, &c, 4);
            }
    }

  private:
    static float bf16_at(const int8_t* row, int index) {
        uint16_t half;
        __builtin_memcpy(&half, row + 2 * index, 2);
        const uint32_t bits = static_cast<uint32_t>(half) << 16;
        float value;
        __builtin_memcpy(&value, &bits, 4);
        return value;
    }

    TileRows rows_ = {};  // all zero: not configured
    int8_t data_[kTileCount][kTileRows][kTileBytes];
};

#endif

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
