// The extension module: every kernel with its contract. Arrays are NumPy arrays on the CPU, taken without a copy; a
// wrong dtype is a TypeError, a wrong shape or an index out of range a ValueError. The GIL is released while a kernel
// runs. Outputs are allocated by the caller and written here.
#include <nanobind/stl/string.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "contracts.h"
#include "dispatch.h"
#include "threads.h"

using namespace nanobind::literals;

namespace twofold {
namespace {

// The kernels of one ISA as methods, so that several can be used side by side.
struct Native {
    const Kernels* kernels;
    std::string isa;

    explicit Native(const std::string& name) {
        for (const Isa& candidate : isas())
            if (name.empty() || candidate.name == name) kernels = candidate.kernels, isa = candidate.name;
        require(!isa.empty(), "this CPU or this build has no ISA named '" + name + "'");
    }

    void linear(const In<float, 2>& x, const PackedWeight& weight, const Out<float, 2>& y) const {
        const Rows rows = rows_of(x, "x_TD");
        require(!weight.is_stack && rows.columns == weight.view.columns,
                "x_TD has " + std::to_string(rows.columns) + " columns; the weight is [" +
                    std::to_string(weight.view.rows) + ", " + std::to_string(weight.view.columns) + "]" +
                    (weight.is_stack ? " of a stack" : ""));
        require_shape(y, {rows.rows, weight.view.rows}, "y_TN");
        const nb::gil_scoped_release unlocked;
        kernels->linear(rows, weight.view, y.data());
    }

    void experts(const In<float, 2>& x, const Any<int32_t>& experts, const Any<float>& gates,
                 const PackedWeight& gate_up, const PackedWeight& down, const Out<float, 2>& y) const {
        const Rows rows = rows_of(x, "x_TD");
        const Weight &up = gate_up.view, &back = down.view;
        require(experts.ndim() == 2 && experts.shape(1) > 0, "experts_TA must be [T, A] with A > 0");
        const auto active = static_cast<int64_t>(experts.shape(1));
        require_shape(experts, {rows.rows, active}, "experts_TA");
        require_shape(gates, {rows.rows, active}, "gates_TA");
        require(gate_up.is_stack && down.is_stack && up.matrices == back.matrices,
                "both weights must be [E, ...] stacks");
        require(up.columns == rows.columns && up.rows == 2 * back.columns,
                "gate_up_END must be [E, 2F, D], down_EDF [E, D, F]");
        require_shape(y, {rows.rows, back.rows}, "y_TD");
        require_range(experts.data(), rows.rows * active, up.matrices, "experts_TA");
        const nb::gil_scoped_release unlocked;
        kernels->experts(rows, experts.data(), gates.data(), active, up, back, y.data());
    }

    void embed(const PackedWeight& table, const Any<int32_t>& tokens, const Out<float, 2>& x) const {
        require(tokens.ndim() == 1 && !table.is_stack, "tokens_T must be [T], table_VD one matrix");
        const auto count = static_cast<int64_t>(tokens.shape(0));
        require_shape(x, {count, table.view.columns}, "x_TD");
        require_range(tokens.data(), count, table.view.rows, "tokens_T");
        const nb::gil_scoped_release unlocked;
        kernels->embed(table.view, tokens.data(), count, x.data());
    }

    void norm(const In<float, 3>& x, const Any<float>& weight, float epsilon, const Out<float, 3>& y) const {
        const Heads heads = heads_of(x, "x_THK");
        require_shape(weight, {heads.size}, "weight_K");
        run_norm(heads, weight.data(), epsilon, y);
    }

    void unit_norm(const In<float, 3>& x, float epsilon, const Out<float, 3>& y) const {
        run_norm(heads_of(x, "x_THK"), nullptr, epsilon, y);
    }

    void run_norm(const Heads& heads, const float* weight, float epsilon, const Out<float, 3>& y) const {
        require_shape(y, {heads.tokens, heads.heads, heads.size}, "y_THK");
        const nb::gil_scoped_release unlocked;
        kernels->norm(heads, weight, epsilon, y.data());
    }

    void rotate(const In<float, 3>& x, const Any<float>& cosine, const Any<float>& sine, bool interleaved,
                const Out<float, 3>& y) const {
        const Heads heads = heads_of(x, "x_THK");
        require(heads.size % 2 == 0, "the head size must be even");
        require_shape(cosine, {heads.tokens, heads.size / 2}, "cosine_TK2");
        require_shape(sine, {heads.tokens, heads.size / 2}, "sine_TK2");
        require_shape(y, {heads.tokens, heads.heads, heads.size}, "y_THK");
        const nb::gil_scoped_release unlocked;
        kernels->rotate(heads, cosine.data(), sine.data(), interleaved, y.data());
    }

    void scale_heads(const In<float, 3>& x, const Any<float>& factors, const Out<float, 3>& y) const {
        const Heads heads = heads_of(x, "x_THK");
        require_shape(factors, {heads.tokens}, "factors_T");
        require_shape(y, {heads.tokens, heads.heads, heads.size}, "y_THK");
        const nb::gil_scoped_release unlocked;
        kernels->scale_heads(heads, factors.data(), y.data());
    }

    void add(const In<float, 2>& x, const In<float, 2>& y, const Out<float, 2>& z) const {
        const Rows left = rows_of(x, "x_TD"), right = rows_of(y, "y_TD");
        require_shape(y, {left.rows, left.columns}, "y_TD");
        require_shape(z, {left.rows, left.columns}, "z_TD");
        const nb::gil_scoped_release unlocked;
        kernels->add(left, right, z.data());
    }

    void swiglu(const In<float, 2>& gate_up, const Out<float, 2>& a) const {
        const Rows rows = rows_of(gate_up, "gate_up_TN");
        require(rows.columns % 2 == 0, "gate_up_TN must have an even number of columns");
        require_shape(a, {rows.rows, rows.columns / 2}, "a_TF");
        const nb::gil_scoped_release unlocked;
        kernels->swiglu(rows, a.data());
    }

    void route(const In<float, 2>& x, const PackedWeight& router, const Out<int32_t, 2>& experts,
               const Out<float, 2>& gates) const {
        const Rows rows = rows_of(x, "x_TD");
        const auto active = static_cast<int64_t>(experts.shape(1));
        require(!router.is_stack && rows.columns == router.view.columns, "router_ED must be [E, D]");
        require(active > 0 && active <= router.view.rows,
                "cannot choose " + std::to_string(active) + " of " + std::to_string(router.view.rows) + " experts");
        require_shape(experts, {rows.rows, active}, "experts_TA");
        require_shape(gates, {rows.rows, active}, "gates_TA");
        const nb::gil_scoped_release unlocked;
        kernels->route(rows, router.view, active, experts.data(), gates.data());
    }

    // keys and values: [blocks, G, block_size, K], float32 or uint16 (bf16 bits). chunk 0: the whole context.
    void attend(const In<float, 3>& q, const In<float, 3>& k, const In<float, 3>& v,
                const nb::ndarray<nb::ndim<4>, nb::device::cpu, nb::c_contig>& keys,
                const nb::ndarray<nb::ndim<4>, nb::device::cpu, nb::c_contig>& values, const Any<int32_t>& positions,
                const Any<int32_t>& starts, const Any<int64_t>& slots, const Any<int32_t>& blocks,
                const Any<int32_t>& bases, int64_t chunk, const Out<float, 3>& o) const {
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
        kernels->attend(q_THK, k_TGK, v_TGK, cache, layout, o.data());
    }

    // Everything attend will read or write must lie inside the cache.
    static void check_layout(const Layout& layout, const Cache& cache, int64_t tokens) {
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

    void quantize(const In<float, 2>& x, const Out<int8_t, 2>& codes, const Out<float, 1>& scales) const {
        const Rows rows = rows_of(x, "x_TD");
        require_shape(codes, {rows.rows, rows.columns}, "codes_TD");
        require_shape(scales, {rows.rows}, "scales_T");
        const nb::gil_scoped_release unlocked;
        kernels->quantize(rows, codes.data(), scales.data());
    }

    // rows_ND: float32, float16 or uint16 (bf16 bits), any strides; writes rows first_row.. of a 2-D weight.
    void encode(const nb::ndarray<nb::ndim<2>, nb::device::cpu, nb::ro>& rows, const PackedWeight& into,
                int64_t first_row) const {
        const bool is_f32 = rows.dtype() == nb::dtype<float>(), is_bf16 = rows.dtype() == nb::dtype<uint16_t>();
        const bool is_f16 =
            rows.dtype() == nb::dlpack::dtype{static_cast<uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
        if (!is_f32 && !is_bf16 && !is_f16)
            throw nb::type_error("rows_ND must be float32, float16 or uint16 (bf16 bits)");
        const Weight& w = into.view;
        const auto count = static_cast<int64_t>(rows.shape(0)), columns = static_cast<int64_t>(rows.shape(1));
        require(!into.is_stack && columns == w.columns, "rows_ND must have the columns of a 2-D weight");
        require(first_row >= 0 && first_row % kPanelRows == 0 && first_row + count <= w.rows &&
                    (count % kPanelRows == 0 || first_row + count == w.rows),
                "rows must be whole panels of 16 inside the weight, or its last rows");
        const SourceRows source{is_f32    ? Source::kF32
                                : is_bf16 ? Source::kBf16
                                          : Source::kF16,
                                rows.data(),
                                count,
                                columns,
                                rows.stride(0),
                                rows.stride(1)};
        const WeightOut target{w.format,
                               const_cast<void*>(w.codes),
                               const_cast<uint8_t*>(w.multipliers),
                               const_cast<float*>(w.scales),
                               w.rows,
                               w.columns};
        const nb::gil_scoped_release unlocked;
        if (count > 0) kernels->encode(source, target, first_row);
    }

    // Operations (a multiplication and an addition are two) per second from registers.
    double measure_int8(int threads_wanted) const;
};

double Native::measure_int8(int threads_wanted) const {
    constexpr int64_t kRounds = 1 << 20;
    require(threads_wanted > 0, "threads must be positive");
    const nb::gil_scoped_release unlocked;
    double best = 0;
    const int before = threads();
    set_threads(threads_wanted);
    for (int pass = 0; pass < 4; ++pass) {
        const auto start = std::chrono::steady_clock::now();
        int64_t done = 0;
        parallel(threads_wanted, 1, [&](int64_t, int64_t) {
            const int64_t mine = kernels->measure_int8(kRounds);
            __atomic_fetch_add(&done, mine, __ATOMIC_RELAXED);
        });
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
        best = std::max(best, static_cast<double>(done) / taken.count());
    }
    set_threads(before);
    return best;
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Kernels of the cpu backend; see native/kernels.h and ops/interface.py.";
    bind_weights(m);
    bind_machine(m);
    nb::class_<Native>(m, "Native", "The kernels of one ISA ('' for the best). Raises ValueError for an unknown one.")
        .def(nb::init<const std::string&>(), "isa"_a = "")
        .def_ro("isa", &Native::isa)
        .def("linear", &Native::linear, "x_TD"_a.noconvert(), "weight_ND"_a, "y_TN"_a.noconvert())
        .def("experts", &Native::experts, "x_TD"_a.noconvert(), "experts_TA"_a.noconvert(), "gates_TA"_a.noconvert(),
             "gate_up_END"_a, "down_EDF"_a, "y_TD"_a.noconvert())
        .def("embed", &Native::embed, "table_VD"_a, "tokens_T"_a.noconvert(), "x_TD"_a.noconvert())
        .def("norm", &Native::norm, "x_THK"_a.noconvert(), "weight_K"_a.noconvert(), "epsilon"_a, "y_THK"_a.noconvert())
        .def("unit_norm", &Native::unit_norm, "x_THK"_a.noconvert(), "epsilon"_a, "y_THK"_a.noconvert())
        .def("rotate", &Native::rotate, "x_THK"_a.noconvert(), "cosine_TK2"_a.noconvert(), "sine_TK2"_a.noconvert(),
             "interleaved"_a, "y_THK"_a.noconvert())
        .def("scale_heads", &Native::scale_heads, "x_THK"_a.noconvert(), "factors_T"_a.noconvert(),
             "y_THK"_a.noconvert())
        .def("add", &Native::add, "x_TD"_a.noconvert(), "y_TD"_a.noconvert(), "z_TD"_a.noconvert())
        .def("swiglu", &Native::swiglu, "gate_up_TN"_a.noconvert(), "a_TF"_a.noconvert())
        .def("route", &Native::route, "x_TD"_a.noconvert(), "router_ED"_a, "experts_TA"_a.noconvert(),
             "gates_TA"_a.noconvert())
        .def("attend", &Native::attend, "q_THK"_a.noconvert(), "k_TGK"_a.noconvert(), "v_TGK"_a.noconvert(),
             "keys"_a.noconvert(), "values"_a.noconvert(), "positions_T"_a.noconvert(), "starts_S"_a.noconvert(),
             "slots_T"_a.noconvert(), "blocks_SB"_a.noconvert(), "bases_S"_a.noconvert(), "chunk"_a,
             "o_THK"_a.noconvert())
        .def("quantize", &Native::quantize, "x_TD"_a.noconvert(), "codes_TD"_a.noconvert(), "scales_T"_a.noconvert())
        .def("encode", &Native::encode, "rows_ND"_a.noconvert(), "into"_a, "first_row"_a)
        .def("measure_int8", &Native::measure_int8, "threads"_a,
             "Operations per second of the int8 dot product, from registers.");
}

}  // namespace twofold
