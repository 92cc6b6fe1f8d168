// Keys and values into the cache, in the order of kv.h.
//
// int8: one scale per head and token, s = max|x| / 127, code = rint(x * (1 / s)), bit for bit as
// ops.packed.quantize_int8 (compiled without contraction). A panel is cleared when its first slot is written: slots
// that are not written yet weigh nothing, and zero times what lay there before must be zero.
#include "kv.h"
#include "threads.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int64_t kStretch = 64;  // dims that are narrowed at a time; a panel has kSlots items of each

inline float narrow(float value, float, float) { return value; }
inline uint16_t narrow(float value, float, uint16_t) { return to_bf16(value); }
inline int8_t narrow(float value, float inverse, int8_t) {
    const float rounded = (value * inverse + kRoundMagic) - kRoundMagic;
    return static_cast<int8_t>(larger(smaller(rounded, 127.0f), -127.0f));
}

// The items of one key: kPack dims at a time, 16 slots apart.
struct Keys {
    template <int kPack, class Item>
    static void spread(const Item* items, int64_t size, int64_t slot, Item* panel) {
        int64_t k = 0;
        for (; k + kPack <= size; k += kPack)
            __builtin_memcpy(panel + key_place(kPack, slot, k), items + k, kPack * sizeof(Item));
        for (; k < size; ++k) panel[key_place(kPack, slot, k)] = items[k];
    }
};

// The items of one value, every kPack-th of a panel's.
struct Values {
    template <int kPack, class Item>
    static void spread(const Item* items, int64_t size, int64_t slot, Item* panel) {
        Item* to = panel + value_place(kPack, slot, 0);
        for (int64_t k = 0; k < size; k += 16, to += 16 * kSlots)
            for (int64_t dim = 0; dim < smaller<int64_t>(16, size - k); ++dim) to[dim * kPack] = items[k + dim];
    }
};

float scale_of(const float* x, int64_t size) {
    float most = 0.0f;
    for (int64_t k = 0; k < size; ++k) most = larger(most, x[k] < 0.0f ? -x[k] : x[k]);
    return most / 127.0f;
}

// All tokens of one KV head: Keys or Values.
template <class Items, class Place>
void store_head(const Heads& x_TGK, int64_t g, void* items, float* scales, const Cache& cache, const int64_t* slots_T) {
    for (int64_t t = 0; t < x_TGK.tokens; ++t) {
        const float* x = x_TGK.data + t * x_TGK.token_stride + g * x_TGK.head_stride;
        const int64_t block = slots_T[t] / cache.block_size, offset = slots_T[t] % cache.block_size;
        const int64_t slot = offset % kSlots, p = offset / kSlots;
        auto* panel = panel_at<typename Items::Item>(cache, items, cache.panel_items(), block, g, p);
        float* panel_scales = Items::kIsInteger ? panel_at<float>(cache, scales, kSlots, block, g, p) : nullptr;
        if (slot == 0) {
            __builtin_memset(panel, 0, static_cast<size_t>(cache.panel_items()) * sizeof(*panel));
            if (Items::kIsInteger) __builtin_memset(panel_scales, 0, kSlots * sizeof(float));
        }
        float inverse = 0.0f;
        if (Items::kIsInteger) {
            const float scale = scale_of(x, x_TGK.size);
            inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
            panel_scales[slot] = scale;
        }
        for (int64_t k = 0; k < x_TGK.size; k += kStretch) {
            const int64_t count = smaller(kStretch, x_TGK.size - k);
            typename Items::Item narrowed[kStretch];
            for (int64_t i = 0; i < count; ++i) narrowed[i] = narrow(x[k + i], inverse, typename Items::Item{});
            Place::template spread<Items::kPack>(narrowed, count, slot, panel + k * kSlots);
        }
    }
}

template <class Items>
void store_all(const Heads& k_TGK, const Heads& v_TGK, const Cache& cache, const int64_t* slots_T) {
    parallel(2 * k_TGK.heads, 1 + 8192 / (k_TGK.tokens * k_TGK.size + 1), [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i)
            if (i < k_TGK.heads)
                store_head<Items, Keys>(k_TGK, i, cache.keys, cache.key_scales, cache, slots_T);
            else
                store_head<Items, Values>(v_TGK, i - k_TGK.heads, cache.values, cache.value_scales, cache, slots_T);
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
