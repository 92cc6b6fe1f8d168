// Keys and values as the cache keeps them. Sixteen consecutive slots of a block form a panel (the last panel of a block
// may have fewer); in it, kPack items that are read at once lie together:
//
//     keys   [dim / kPack][16 slots][kPack dims]                     scores = queries times "weight rows" of 16 slots
//     values [dim / 16][slot / kPack][16 dims][kPack slots]          outputs = weights times "weight rows" of 16 dims
//
// so that both products of attention run like products with packed weights, without a horizontal sum. Head sizes are
// padded to 16 with zeros. int8 items have one scale per slot: item = scale * code.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int64_t kSlots = 16;  // of a panel

inline int64_t key_place(int64_t pack, int64_t slot, int64_t dim) {
    return (dim / pack * kSlots + slot) * pack + dim % pack;
}
inline int64_t value_place(int64_t pack, int64_t slot, int64_t dim) {
    return ((dim / 16 * (kSlots / pack) + slot / pack) * 16 + dim % 16) * pack + slot % pack;
}

// A panel of a block and KV head in one of the cache's arrays, which has so many items of each.
template <class Item>
inline Item* panel_at(const Cache& cache, void* array, int64_t items, int64_t block, int64_t g, int64_t panel) {
    char* there = static_cast<char*>(array) + block * cache.block_bytes;
    return reinterpret_cast<Item*>(there) + (g * cache.panels() + panel) * items;
}

// Each kind of item spreads a register of them over kPack registers of floats; expand gives the one with items i.
struct F32Items {
    using Item = float;
    static constexpr int kPack = 1;
    static constexpr bool kIsInteger = false;
    static F expand(const float* from, int) { return load<F>(from); }
};

struct Bf16Items {
    using Item = uint16_t;
    static constexpr int kPack = 2;
    static constexpr bool kIsInteger = false;
    static F expand(const uint16_t* from, int i) {
        const I both = load<I>(from);
        return (F)(i == 0 ? both << 16 : both & static_cast<int32_t>(0xFFFF0000));
    }
};

struct Int8Items {
    using Item = int8_t;
    static constexpr int kPack = 4;
    static constexpr bool kIsInteger = true;
    static F expand(const int8_t* from, int i) {
        return __builtin_convertvector((load<I>(from) << (24 - 8 * i)) >> 24, F);
    }
};

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
