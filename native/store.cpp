// Keys and values into the cache, in the order of kv.h.
//
// int8: one scale per head and token, s = max|x| / 127, code = rint(x * (1 / s)), bit for bit as
// ops.packed.quantize_int8 (compiled without contraction). A panel is cleared when its first slot is written: slots
// that are not written yet weigh nothing, and zero times what lay there before must be zero.
#include "kv.h"
#include "threads.h"

namespace twofold::TWOFOLD_ISA {
namespace {

inline void narrow(float value, float, float* to) { *to = value; }
inline void narrow(float value, float, uint16_t* to) { *to = to_bf16(value); }
inline void narrow(float value, float inverse, int8_t* to) {
    const float rounded = (value * inverse + kRoundMagic) - kRoundMagic;
    *to = static_cast<int8_t>(larger(smaller(rounded, 127.0f), -127.0f));
}

float scale_of(const float* x, int64_t size) {
    float most = 0.0f;
    for (int64_t k = 0; k < size; ++k) most = larger(most, x[k] < 0.0f ? -x[k] : x[k]);
    return most / 127.0f;
}

// All tokens of one KV head, keys or values; `place` maps slot and dim to an item of the panel.
template <class Items, class Place>
void store_head(const Heads& x_TGK, int64_t g, void* items, float* scales, const Cache& cache, const int64_t* slots_T,
                const Place& place) {
    for (int64_t t = 0; t < x_TGK.tokens; ++t) {
        const float* x = x_TGK.data + t * x_TGK.token_stride + g * x_TGK.head_stride;
        const int64_t block = slots_T[t] / cache.block_size, offset = slots_T[t] % cache.block_size;
        const int64_t index = (block * cache.kv_heads + g) * cache.panels() + offset / kSlots, slot = offset % kSlots;
        auto* panel = static_cast<typename Items::Item*>(items) + index * cache.panel_items();
        if (slot == 0) {
            __builtin_memset(panel, 0, static_cast<size_t>(cache.panel_items()) * sizeof(*panel));
            if (Items::kIsInteger) __builtin_memset(scales + index * kSlots, 0, kSlots * sizeof(float));
        }
        float inverse = 0.0f;
        if (Items::kIsInteger) {
            const float scale = scale_of(x, x_TGK.size);
            inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
            scales[index * kSlots + slot] = scale;
        }
        for (int64_t k = 0; k < x_TGK.size; ++k) narrow(x[k], inverse, panel + place(slot, k));
    }
}

template <class Items>
void store_all(const Heads& k_TGK, const Heads& v_TGK, const Cache& cache, const int64_t* slots_T) {
    const auto key = [](int64_t slot, int64_t dim) { return key_place(Items::kPack, slot, dim); };
    const auto value = [](int64_t slot, int64_t dim) { return value_place(Items::kPack, slot, dim); };
    parallel(2 * k_TGK.heads, 1 + 8192 / (k_TGK.tokens * k_TGK.size + 1), [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i)
            if (i < k_TGK.heads)
                store_head<Items>(k_TGK, i, cache.keys, cache.key_scales, cache, slots_T, key);
            else
                store_head<Items>(v_TGK, i - k_TGK.heads, cache.values, cache.value_scales, cache, slots_T, value);
    });
}

}  // namespace

void store_heads(const Heads& k_TGK, const Heads& v_TGK, const Cache& cache, const int64_t* slots_T) {
    switch (cache.type) {
        case KvType::kF32:
            return store_all<F32Items>(k_TGK, v_TGK, cache, slots_T);
        case KvType::kBf16:
            return store_all<Bf16Items>(k_TGK, v_TGK, cache, slots_T);
        case KvType::kInt8:
            return store_all<Int8Items>(k_TGK, v_TGK, cache, slots_T);
    }
}

}  // namespace twofold::TWOFOLD_ISA
