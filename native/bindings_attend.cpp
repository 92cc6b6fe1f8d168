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

// keys and values: [blocks, G, block_size, K], float32 or uint16 (bf16 bits). chunk 0: the whole context.
void attend(const Native& native, const In<float, 3>& q, const In<float, 3>& k, const In<float, 3>& v,
            const nb::ndarray<nb::ndim<4>, nb::device::cpu, nb::c_contig>& keys,
            const nb::ndarray<nb::ndim<4>, nb::device::cpu, nb::c_contig>& values, const Any<int32_t>& positions,
            const Any<int32_t>& starts, const Any<int64_t>& slots, const Any<int32_t>& blocks,
            const Any<int32_t>& bases, int64_t chunk, const Out<float, 3>& o) {
    const Heads q_THK = heads_of(q, "q_THK"), k_TGK = heads_of(k, "k_TGK"), v_TGK = heads_of(v, "v_TGK");
    const bool is_bf16 = keys.dtype() == nb::dtype<uint16_t>();
    require(is_bf16 || keys.dtype() == nb::dtype<float>(), "the cache must be float32 or uint16 (bf16 bits)");
    require(keys.dtype() == values.dtype(), "keys and values must have the same dtype");
    const Cache cache{keys.data(),
                      values.data(),
                      is_bf16,
                      static_cast<int64_t>(keys.shape(0)),
                      static_cast<int64_t>(keys.shape(1)),
                      static_cast<int64_t>(keys.shape(2)),
                      static_cast<int64_t>(keys.shape(3))};
    require_shape(values, {cache.blocks, cache.kv_heads, cache.block_size, cache.size}, "values");
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
    check_layout(layout, cache, q_THK.tokens);
    const nb::gil_scoped_release unlocked;
    native.kernels->attend(q_THK, k_TGK, v_TGK, cache, layout, o.data());
}

}  // namespace

void bind_attend(nb::class_<Native>& native) {
    using namespace nb::literals;
    native.def("attend", &attend, "q_THK"_a.noconvert(), "k_TGK"_a.noconvert(), "v_TGK"_a.noconvert(),
               "keys"_a.noconvert(), "values"_a.noconvert(), "positions_T"_a.noconvert(), "starts_S"_a.noconvert(),
               "slots_T"_a.noconvert(), "blocks_SB"_a.noconvert(), "bases_S"_a.noconvert(), "chunk"_a,
               "o_THK"_a.noconvert());
}

}  // namespace twofold
