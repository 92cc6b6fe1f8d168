// The kernels, as plain signatures: each is compiled once per ISA, in that ISA's namespace, and found through a table.
//
// Dimensions are named as in ops/types.py. Activations are float32; a Rows view has contiguous columns and any row
// stride, outputs are contiguous. Strides count elements. Kernels never allocate in their loops, throw or log.
#pragma once

#include <cstdint>

namespace twofold {

constexpr int64_t kPanelRows = 16;     // ops/layout.py, PANEL_ROWS
constexpr int64_t kColumnStep = 64;    // COLUMN_STEP
constexpr int64_t kGroupColumns = 32;  // GROUP_COLUMNS

enum class Format : int { kF32, kBf16, kInt8, kInt4, kGroup4, kFp8 };

// float32 [rows, columns].
struct Rows {
    const float* data;
    int64_t rows, columns, stride;
};

// float32 [tokens, heads, size]; size is contiguous.
struct Heads {
    const float* data;
    int64_t tokens, heads, size, token_stride, head_stride;
};

// A packed weight, bit by bit as ops/layout.py says. `matrices` is 1 but for stacks of experts.
struct Weight {
    Format format;
    const void* codes;           // float32, uint16 (bf16 bits), int8, uint8 (nibbles or float8 bits)
    const uint8_t* multipliers;  // Int4 only
    const float* scales;         // Int8, Int4 and Fp8
    int64_t matrices, rows, columns;
    const uint16_t* halves = nullptr;  // Group4 only: float16 bits
};

// The same to be written by the packers; one matrix.
struct WeightOut {
    Format format;
    void* codes;
    uint8_t* multipliers;
    float* scales;
    int64_t rows, columns;
};

enum class Source : int { kF32, kF16, kBf16 };

// What a packer reads: [rows, columns] of any strides.
struct SourceRows {
    Source type;
    const void* data;
    int64_t rows, columns, row_stride, column_stride;
};

enum class KvType : int { kF32, kBf16, kInt8 };

// Paged keys and values of one layer: [blocks, G, panels, panel_items], laid out as kv.h says; int8 with scales
// [blocks, G, panels, 16]. Blocks may lie apart, the same number of bytes in all four arrays.
struct Cache {
    KvType type;
    void* keys;
    void* values;
    float* key_scales;  // int8 only
    float* value_scales;
    int64_t blocks, kv_heads, block_size, size;
    int64_t block_bytes;  // from one block to the next

    int64_t panels() const { return (block_size + 15) / 16; }
    int64_t panel_items() const { return (size + 15) / 16 * 16 * 16; }
};

// Which tokens sit where; ops/types.py, Batch and Pages. `chunk` is 0 for a layer that sees the whole context.
struct Layout {
    const int32_t* positions_T;
    const int32_t* starts_S;  // [sequences + 1]
    const int64_t* slots_T;
    const int32_t* blocks_SB;
    const int32_t* bases_S;
    int64_t sequences, table_width, chunk;
};

// How a token is drawn from a row: ops/types.py, RowSampling. temperature 0: the best one; number: the uniform one.
struct Drawing {
    double temperature, top_k, top_p, min_p, number;
};

// Name and arguments of each kernel; ops/interface.py and ops/reference.py say what it computes.
//   quantize     codes_RD int8, scales_R and firsts of ops.activations.quantize_activations, room for R = 2 T rows;
//                places [T + 1] ends with R, which is returned
//   norm         weight_D may be null (unit_norm); a row is one head of one token
//   encode       packs rows minus those of coarse_ND (an Int4 weight, or null)
//   store_heads  writes keys and values to slots_T of the cache; attend reads them
//   refine       adds the residual's product to the `panels` best panels of each row of y_RV (Ops.logits)
//   scale_heads  y_THK = x_THK * factors_T
//   weigh        what ops.sampling.Passes.weigh gives: weights_V and sums_S, one for each 1024
//   reach        indices of values from the floor up, room for count of them; returns how many
//   draw         a token of each row, see Drawing; best_R: the largest logit, NaN where there is one
//   measure_int8, measure_int4: `rounds` of what multiplies int8 codes, or four-bit ones once they are unpacked, on
//                registers; the operations done
#define TWOFOLD_KERNELS(KERNEL)                                                                                        \
    KERNEL(void, linear, (const Rows& x_TD, const Weight& weight_ND, float* y_TN))                                     \
    KERNEL(void, refine, (const Rows& x_RD, const Weight& residual_VD, int64_t panels, float* y_RV))                   \
    KERNEL(void, experts,                                                                                              \
           (const Rows& x_TD, const int32_t* experts_TA, const float* gates_TA, int64_t active,                        \
            const Weight& gate_up_END, const Weight& down_EDF, float* y_TD))                                           \
    KERNEL(void, embed, (const Weight& table_VD, const int32_t* tokens_T, int64_t tokens, float* x_TD))                \
    KERNEL(void, store_heads, (const Heads& k_TGK, const Heads& v_TGK, const Cache& cache, const int64_t* slots_T))    \
    KERNEL(void, attend, (const Heads& q_THK, const Cache& cache, const Layout& layout, float* o_THK))                 \
    KERNEL(void, norm, (const Heads& x_THK, const float* weight_K, float epsilon, float* y_THK))                       \
    KERNEL(void, rotate,                                                                                               \
           (const Heads& x_THK, const float* cosine_TK2, const float* sine_TK2, bool interleaved, float* y_THK))       \
    KERNEL(void, scale_heads, (const Heads& x_THK, const float* factors_T, float* y_THK))                              \
    KERNEL(void, add, (const Rows& x_TD, const Rows& y_TD, float* z_TD))                                               \
    KERNEL(void, swiglu, (const Rows& gate_up_TN, float* a_TF, int64_t stride))                                        \
    KERNEL(void, route,                                                                                                \
           (const Rows& x_TD, const Weight& router_ED, int64_t active, int32_t* experts_TA, float* gates_TA))          \
    KERNEL(void, weigh,                                                                                                \
           (const float* logits_V, int64_t count, float largest, float temperature, float* weights_V, double* sums_S)) \
    KERNEL(int64_t, reach, (const float* values_V, int64_t count, float floor, int64_t* indices))                      \
    KERNEL(void, draw, (const Rows& logits_RV, const Drawing* drawings_R, int64_t* tokens_R, float* best_R))           \
    KERNEL(int64_t, quantize, (const Rows& x_TD, int8_t* codes_RD, float* scales_R, int64_t* places))                  \
    KERNEL(void, encode,                                                                                               \
           (const SourceRows& rows_ND, const Weight* coarse_ND, const WeightOut& into, int64_t first_row))             \
    KERNEL(int64_t, measure_int8, (int64_t rounds))                                                                    \
    KERNEL(int64_t, measure_int4, (int64_t rounds))

struct Kernels {
#define TWOFOLD_MEMBER(result, name, arguments) result(*name) arguments;
    TWOFOLD_KERNELS(TWOFOLD_MEMBER)
#undef TWOFOLD_MEMBER
};

// The table of each ISA this library was built with (CMakeLists.txt defines TWOFOLD_HAS_*).
namespace generic {
extern const Kernels kernels;
}
namespace amx_emulated {
extern const Kernels kernels;
}
#ifdef TWOFOLD_HAS_AVX2
namespace avx2 {
extern const Kernels kernels;
}
#endif
#ifdef TWOFOLD_HAS_AVXVNNI
namespace avxvnni {
extern const Kernels kernels;
}
#endif
#ifdef TWOFOLD_HAS_AVXVNNI_EMULATED
namespace avxvnni_emulated {
extern const Kernels kernels;
}
#endif
#ifdef TWOFOLD_HAS_AVX512VNNI
namespace avx512vnni {
extern const Kernels kernels;
}
#endif
#ifdef TWOFOLD_HAS_AVX512BF16
namespace avx512bf16 {
extern const Kernels kernels;
}
#endif
#ifdef TWOFOLD_HAS_AVX512AMX
namespace avx512amx {
extern const Kernels kernels;
}
#endif
#ifdef TWOFOLD_HAS_NEON
namespace neon {
extern const Kernels kernels;
}
#endif

#ifdef TWOFOLD_ISA
namespace TWOFOLD_ISA {
#define TWOFOLD_DECLARATION(result, name, arguments) result name arguments;
TWOFOLD_KERNELS(TWOFOLD_DECLARATION)
#undef TWOFOLD_DECLARATION
extern const Kernels kernels;
}  // namespace TWOFOLD_ISA
#endif

}  // namespace twofold
