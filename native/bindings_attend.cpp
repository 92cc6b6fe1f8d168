// Attention: its arguments are checked as one, since the block tables index the cache.
#include "contracts.h"

namespace twofold {
namespace {

// Everything attend will read or write must lie inside the cache.
void check_layout(const Layout& layout, const Cache& cache, int64_t tokens) {
    require(layout.chunk >= 0, "chunk must be positive, or 0 for the whole context");
    require(layout.starts_S[0] == 0 && layout.starts_S[layout.sequences] == tokens, "starts_S must go from 0 to T");
    require_range(layout.slots_T, tokens, cache.blocks * cache.block_size, "slots_T");
    for (int64_t s = 0; s < layout.sequences; ++s) {
        const int32_t first = layout.starts_S[s], last = layout.starts_S[s + 1];
        require(first <= last && last <= tokens, "starts_S must not decrease");
        if (first == last) continue;
        for (int32_t t = first; t + 1 < last; ++t)
            require(layout.positions_T[t + 1] == layout.positions_T[t] + 1,
                    "positions of a sequence must be consecutive");
        const int64_t begin = layout.positions_T[first], base = layout.bases_S[s];
        const int64_t visible = layout.chunk == 0 ? 0 : begin / layout.chunk * layout.chunk;
        require(begin >= 0 && base <= visible, "a table must begin at or before the first visible position");
        const int64_t from = (visible - base) / cache.block_size;
        const int64_t to = (layout.positions_T[last - 1] - base) / cache.block_size;
        require(to < layout.table_width, "a block table is too short for its positions");
        require_range(layout.blocks_SB + s * layout.table_width + from, to + 1 - from, cache.blocks, "blocks_SB");
    }
}

using Items = nb::ndarray<nb::ndim<4>, nb::device::cpu>;
using Scales = nb::ndarray<float, nb::ndim<4>, nb::device::cpu>;

// The shape of one of a cache's arrays, and that only its blocks lie apart, `block_bytes` in all of them.
void require_blocks(const auto& array, const Cache& cache, int64_t items, const char* name) {
    require_shape(array, {cache.blocks, cache.kv_heads, cache.panels(), items}, name);
    const bool is_whole = array.stride(3) == 1 && array.stride(2) == items &&
                          array.stride(1) == cache.panels() * items &&
                          array.stride(0) * static_cast<int64_t>(array.itemsize()) == cache.block_bytes;
    require(cache.blocks == 0 || is_whole,
            std::string(name) + " must have contiguous blocks, as far apart as the keys'");
}

KvType type_of(const Items& keys) {
    if (keys.dtype() == nb::dtype<float>()) return KvType::kF32;
    if (keys.dtype() == nb::dtype<uint16_t>()) return KvType::kBf16;
    require(keys.dtype() == nb::dtype<int8_t>(), "the cache must be float32, uint16 (bf16 bits) or int8");
    return KvType::kInt8;
}

// The cache of one layer held from Python: its arrays, checked once.
struct HeldCache {
    Items keys, values;
    Scales key_scales, value_scales;
    Cache view;

    // keys and values: [blocks, G, panels, panel items], float32, uint16 (bf16 bits) or int8; scales: [blocks, G,
    // panels, 16], or empty where items are not int8.
    HeldCache(Items keys_, Items values_, Scales key_scales_, Scales value_scales_, int64_t block_size, int64_t size)
        : keys(keys_), values(values_), key_scales(key_scales_), value_scales(value_scales_) {
        const auto blocks = static_cast<int64_t>(keys.shape(0)), heads = static_cast<int64_t>(keys.shape(1));
        require(block_size > 0 && size > 0 && heads > 0, "block size, head size and KV heads must be at least 1");
        const int64_t block_bytes = keys.stride(0) * static_cast<int64_t>(keys.itemsize());
        view = Cache{type_of(keys), keys.data(), values.data(), key_scales.data(), value_scales.data(), blocks,
                     heads,         block_size,  size,          block_bytes};
        require(keys.dtype() == values.dtype(), "keys and values must have the same dtype");
        require_blocks(keys, view, view.panel_items(), "keys");
        require_blocks(values, view, view.panel_items(), "values");
        if (view.type != KvType::kInt8) return;
        require_blocks(key_scales, view, 16, "key_scales");
        require_blocks(value_scales, view, 16, "value_scales");
    }
};

// Stores k and v at slots_T of the cache, then attends. chunk 0: the whole context.
void attend(const Native& native, const In<float, 3>& q, const In<float, 3>& k, const In<float, 3>& v,
            const HeldCache& held, const Any<int32_t>& positions, const Any<int32_t>& starts, const Any<int64_t>& slots,
            const Any<int32_t>& blocks, const Any<int32_t>& bases, int64_t chunk, const Out<float, 3>& o) {
    const Heads q_THK = heads_of(q, "q_THK"), k_TGK = heads_of(k, "k_TGK"), v_TGK = heads_of(v, "v_TGK");
    const Cache& cache = held.view;
    require_shape(k, {q_THK.tokens, cache.kv_heads, cache.size}, "k_TGK");
    require_shape(v, {q_THK.tokens, cache.kv_heads, cache.size}, "v_TGK");
    require(q_THK.size == cache.size && q_THK.heads % cache.kv_heads == 0 && q_THK.heads > 0,
            "q_THK must have the cache's head size and a multiple of its heads");
    require_shape(positions, {q_THK.tokens}, "positions_T");
    require_shape(slots, {q_THK.tokens}, "slots_T");
    require(starts.ndim() == 1 && starts.shape(0) > 0 && blocks.ndim() == 2,
            "starts_S must be [S + 1], blocks_SB [S, B]");
    const auto sequences = static_cast<int64_t>(starts.shape(0)) - 1, width = static_cast<int64_t>(blocks.shape(1));
    require_shape(blocks, {sequences, width}, "blocks_SB");
    require_shape(bases, {sequences}, "bases_S");
    require_shape(o, {q_THK.tokens, q_THK.heads, q_THK.size}, "o_THK");
    const Layout layout{positions.data(), starts.data(), slots.data(), blocks.data(),
                        bases.data(),     sequences,     width,        chunk};
    native.run([kernels = native.kernels, q_THK, k_TGK, v_TGK, cache, layout, o = o.data()] {
        check_layout(layout, cache, q_THK.tokens);
        kernels->store_heads(k_TGK, v_TGK, cache, layout.slots_T);
        kernels->attend(q_THK, cache, layout, o);
    });
}

}  // namespace

void bind_attend(nb::module_& m, nb::class_<Native>& native) {
    using namespace nb::literals;
    nb::class_<HeldCache>(m, "Cache")
        .def(nb::init<Items, Items, Scales, Scales, int64_t, int64_t>(), "keys"_a.noconvert(), "values"_a.noconvert(),
             "key_scales"_a.noconvert(), "value_scales"_a.noconvert(), "block_size"_a, "head_size"_a);
    native.def("attend", &attend, "q_THK"_a.noconvert(), "k_TGK"_a.noconvert(), "v_TGK"_a.noconvert(), "cache"_a,
               "positions_T"_a.noconvert(), "starts_S"_a.noconvert(), "slots_T"_a.noconvert(),
               "blocks_SB"_a.noconvert(), "bases_S"_a.noconvert(), "chunk"_a, "o_THK"_a.noconvert());
}

}  // namespace twofold
