// The extension module: every kernel with its contract. Arrays are NumPy arrays on the CPU, taken without a copy; a
// wrong dtype is a TypeError, a wrong shape or an index out of range a ValueError. The GIL is released while a kernel
// runs. Outputs are allocated by the caller and written here.
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "contracts.h"
#include "dispatch.h"
#include "threads.h"

using namespace nanobind::literals;

namespace twofold {
namespace {

void linear(const Native& native, const In<float, 2>& x, const PackedWeight& weight, const Out<float, 2>& y) {
    const Rows rows = rows_of(x, "x_TD");
    require(!weight.is_stack && rows.columns == weight.view.columns,
            "x_TD has " + std::to_string(rows.columns) + " columns; the weight is [" +
                std::to_string(weight.view.rows) + ", " + std::to_string(weight.view.columns) + "]" +
                (weight.is_stack ? " of a stack" : ""));
    require_shape(y, {rows.rows, weight.view.rows}, "y_TN");
    native.run([kernel = native.kernels->linear, rows, w = weight.view, y = y.data()] { kernel(rows, w, y); });
}

void refine(const Native& native, const In<float, 2>& x, const PackedWeight& residual, int64_t panels,
            const Out<float, 2>& y) {
    const Rows rows = rows_of(x, "x_RD");
    const Weight& w = residual.view;
    require(!residual.is_stack && w.format == Format::kInt4 && rows.columns == w.columns,
            "residual_VD must be one Int4 matrix with the columns of x_RD");
    require(panels > 0 && panels <= (w.rows + kPanelRows - 1) / kPanelRows, "panels must be 1 to the weight's panels");
    require_shape(y, {rows.rows, w.rows}, "y_RV");
    native.run([kernel = native.kernels->refine, rows, w, panels, y = y.data()] { kernel(rows, w, panels, y); });
}

void experts(const Native& native, const In<float, 2>& x, const Any<int32_t>& experts, const Any<float>& gates,
             const PackedWeight& gate_up, const PackedWeight& down, const Out<float, 2>& y) {
    const Rows rows = rows_of(x, "x_TD");
    const Weight &up = gate_up.view, &back = down.view;
    require(experts.ndim() == 2 && experts.shape(1) > 0, "experts_TA must be [T, A] with A > 0");
    const auto active = static_cast<int64_t>(experts.shape(1));
    require_shape(experts, {rows.rows, active}, "experts_TA");
    require_shape(gates, {rows.rows, active}, "gates_TA");
    require(gate_up.is_stack && down.is_stack && up.matrices == back.matrices, "both weights must be [E, ...] stacks");
    require(up.columns == rows.columns && up.rows == 2 * back.columns,
            "gate_up_END must be [E, 2F, D], down_EDF [E, D, F]");
    require_shape(y, {rows.rows, back.rows}, "y_TD");
    native.run([kernel = native.kernels->experts, rows, experts = experts.data(), gates = gates.data(), active, up,
                back, y = y.data()] {
        require_range(experts, rows.rows * active, up.matrices, "experts_TA");
        kernel(rows, experts, gates, active, up, back, y);
    });
}

void embed(const Native& native, const PackedWeight& table, const Any<int32_t>& tokens, const Out<float, 2>& x) {
    require(tokens.ndim() == 1 && !table.is_stack, "tokens_T must be [T], table_VD one matrix");
    const auto count = static_cast<int64_t>(tokens.shape(0));
    require_shape(x, {count, table.view.columns}, "x_TD");
    native.run([kernel = native.kernels->embed, table = table.view, tokens = tokens.data(), count, x = x.data()] {
        require_range(tokens, count, table.rows, "tokens_T");
        kernel(table, tokens, count, x);
    });
}

void run_norm(const Native& native, const Heads& heads, const float* weight, float epsilon, const Out<float, 3>& y) {
    require_shape(y, {heads.tokens, heads.heads, heads.size}, "y_THK");
    native.run(
        [kernel = native.kernels->norm, heads, weight, epsilon, y = y.data()] { kernel(heads, weight, epsilon, y); });
}

void norm(const Native& native, const In<float, 3>& x, const Any<float>& weight, float epsilon,
          const Out<float, 3>& y) {
    const Heads heads = heads_of(x, "x_THK");
    require_shape(weight, {heads.size}, "weight_K");
    run_norm(native, heads, weight.data(), epsilon, y);
}

void unit_norm(const Native& native, const In<float, 3>& x, float epsilon, const Out<float, 3>& y) {
    run_norm(native, heads_of(x, "x_THK"), nullptr, epsilon, y);
}

void rotate(const Native& native, const In<float, 3>& x, const Any<float>& cosine, const Any<float>& sine,
            bool interleaved, const Out<float, 3>& y) {
    const Heads heads = heads_of(x, "x_THK");
    require(heads.size % 2 == 0, "the head size must be even");
    require_shape(cosine, {heads.tokens, heads.size / 2}, "cosine_TK2");
    require_shape(sine, {heads.tokens, heads.size / 2}, "sine_TK2");
    require_shape(y, {heads.tokens, heads.heads, heads.size}, "y_THK");
    native.run([kernel = native.kernels->rotate, heads, cosine = cosine.data(), sine = sine.data(), interleaved,
                y = y.data()] { kernel(heads, cosine, sine, interleaved, y); });
}

void scale_heads(const Native& native, const In<float, 3>& x, const Any<float>& factors, const Out<float, 3>& y) {
    const Heads heads = heads_of(x, "x_THK");
    require_shape(factors, {heads.tokens}, "factors_T");
    require_shape(y, {heads.tokens, heads.heads, heads.size}, "y_THK");
    native.run([kernel = native.kernels->scale_heads, heads, factors = factors.data(), y = y.data()] {
        kernel(heads, factors, y);
    });
}

void add(const Native& native, const In<float, 2>& x, const In<float, 2>& y, const Out<float, 2>& z) {
    const Rows left = rows_of(x, "x_TD"), right = rows_of(y, "y_TD");
    require_shape(y, {left.rows, left.columns}, "y_TD");
    require_shape(z, {left.rows, left.columns}, "z_TD");
    native.run([kernel = native.kernels->add, left, right, z = z.data()] { kernel(left, right, z); });
}

void swiglu(const Native& native, const In<float, 2>& gate_up, const OutRows& a) {
    const Rows rows = rows_of(gate_up, "gate_up_TN");
    require(rows.columns % 2 == 0, "gate_up_TN must have an even number of columns");
    require_shape(a, {rows.rows, rows.columns / 2}, "a_TF");
    require(a.size() == 0 || a.shape(1) <= 1 || a.stride(1) == 1, "a_TF must have contiguous columns");
    native.run(
        [kernel = native.kernels->swiglu, rows, a = a.data(), stride = a.stride(0)] { kernel(rows, a, stride); });
}

void route(const Native& native, const In<float, 2>& x, const PackedWeight& router, const Out<int32_t, 2>& experts,
           const Out<float, 2>& gates) {
    const Rows rows = rows_of(x, "x_TD");
    const auto active = static_cast<int64_t>(experts.shape(1));
    require(!router.is_stack && rows.columns == router.view.columns, "router_ED must be [E, D]");
    require(active > 0 && active <= router.view.rows,
            "cannot choose " + std::to_string(active) + " of " + std::to_string(router.view.rows) + " experts");
    require_shape(experts, {rows.rows, active}, "experts_TA");
    require_shape(gates, {rows.rows, active}, "gates_TA");
    native.run([kernel = native.kernels->route, rows, router = router.view, active, experts = experts.data(),
                gates = gates.data()] { kernel(rows, router, active, experts, gates); });
}

int64_t quantize(const Native& native, const In<float, 2>& x, const Out<int8_t, 2>& codes, const Out<float, 1>& scales,
                 const Out<int64_t, 1>& places) {
    const Rows rows = rows_of(x, "x_TD");
    require_shape(codes, {2 * rows.rows, rows.columns}, "codes_RD");
    require_shape(scales, {2 * rows.rows}, "scales_R");
    require_shape(places, {rows.rows + 1}, "places");
    const nb::gil_scoped_release unlocked;
    return native.kernels->quantize(rows, codes.data(), scales.data(), places.data());
}

void weigh(const Native& native, const Any<float>& logits, float largest, float temperature,
           const Out<float, 1>& weights, const Out<double, 1>& sums) {
    require(logits.ndim() == 1 && temperature > 0.0f, "logits_V must be [V], temperature positive");
    const auto count = static_cast<int64_t>(logits.shape(0));
    require_shape(weights, {count}, "weights_V");
    require_shape(sums, {(count + 1023) / 1024}, "sums_S");
    const nb::gil_scoped_release unlocked;
    native.kernels->weigh(logits.data(), count, largest, temperature, weights.data(), sums.data());
}

int64_t reach(const Native& native, const Any<float>& values, float floor, const Out<int64_t, 1>& indices) {
    require(values.ndim() == 1, "values_V must be [V]");
    const auto count = static_cast<int64_t>(values.shape(0));
    require_shape(indices, {count}, "indices_V");
    const nb::gil_scoped_release unlocked;
    return native.kernels->reach(values.data(), count, floor, indices.data());
}

void draw(const Native& native, const In<float, 2>& logits, const Any<double>& drawings, const Out<int64_t, 1>& tokens,
          const Out<float, 1>& best) {
    constexpr int64_t kMembers = sizeof(Drawing) / sizeof(double);
    const Rows rows = rows_of(logits, "logits_RV");
    require(rows.columns > 0 && rows.columns <= INT32_MAX, "logits_RV must have columns, at most 2^31 - 1");
    require_shape(drawings, {rows.rows, kMembers}, "drawings_RM");
    require_shape(tokens, {rows.rows}, "tokens_R");
    require_shape(best, {rows.rows}, "best_R");
    const nb::gil_scoped_release unlocked;
    native.kernels->draw(rows, reinterpret_cast<const Drawing*>(drawings.data()), tokens.data(), best.data());
}

// Operations (a multiplication and an addition are two) per second of a kernel that returns how many it did. The best
// of many passes of a millisecond or so: whoever shares the cores leaves them in between.
double measure(int64_t (*kernel)(int64_t rounds), int threads_wanted) {
    constexpr int64_t kRounds = 1 << 20;
    constexpr std::chrono::milliseconds kTime{250};
    require(threads_wanted > 0, "threads must be positive");
    const nb::gil_scoped_release unlocked;
    double best = 0;
    const int before = threads();
    set_threads(threads_wanted);
    const auto begin = std::chrono::steady_clock::now();
    for (auto start = begin; start < begin + kTime; start = std::chrono::steady_clock::now()) {
        int64_t done = 0;
        parallel(threads_wanted, 1, [&](int64_t, int64_t) {
            const int64_t mine = kernel(kRounds);
            __atomic_fetch_add(&done, mine, __ATOMIC_RELAXED);
        });
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
        best = std::max(best, static_cast<double>(done) / taken.count());
    }
    set_threads(before);
    return best;
}

double measure_int8(const Native& native, int threads) { return measure(native.kernels->measure_int8, threads); }
double measure_int4(const Native& native, int threads) { return measure(native.kernels->measure_int4, threads); }

}  // namespace

Native::Native(const std::string& name) {
    for (const Isa& candidate : testable_isas())
        if (name.empty() || candidate.name == name) kernels = candidate.kernels, isa = candidate.name;
    require(!isa.empty(), "this CPU or this build has no ISA named '" + name + "'");
}

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);  // a thread that still waits when the interpreter ends is no leak
    m.doc() = "Kernels of the cpu backend; see native/kernels.h and ops/interface.py.";
    bind_weights(m);
    bind_machine(m);
    nb::class_<Native> native(m, "Native",
                              "The kernels of one ISA ('' for the best). Raises ValueError for an unknown one.");
    nb::class_<Tape>(m, "Tape", "Kernels with their arguments, in the order in which they ran.")
        .def("play", &Tape::play, nb::call_guard<nb::gil_scoped_release>(),
             "Run them again, on what is in the same memory now. All arrays and weights must still be there.");
    native.def(nb::init<const std::string&>(), "isa"_a = "")
        .def_ro("isa", &Native::isa)
        .def("record", &Native::record, "Keep what runs from now on, until `recorded`.")
        .def("recorded", &Native::recorded, "What ran since `record`.")
        .def("linear", &linear, "x_TD"_a.noconvert(), "weight_ND"_a, "y_TN"_a.noconvert())
        .def("refine", &refine, "x_RD"_a.noconvert(), "residual_VD"_a, "panels"_a, "y_RV"_a.noconvert())
        .def("experts", &experts, "x_TD"_a.noconvert(), "experts_TA"_a.noconvert(), "gates_TA"_a.noconvert(),
             "gate_up_END"_a, "down_EDF"_a, "y_TD"_a.noconvert())
        .def("embed", &embed, "table_VD"_a, "tokens_T"_a.noconvert(), "x_TD"_a.noconvert())
        .def("norm", &norm, "x_THK"_a.noconvert(), "weight_K"_a.noconvert(), "epsilon"_a, "y_THK"_a.noconvert())
        .def("unit_norm", &unit_norm, "x_THK"_a.noconvert(), "epsilon"_a, "y_THK"_a.noconvert())
        .def("rotate", &rotate, "x_THK"_a.noconvert(), "cosine_TK2"_a.noconvert(), "sine_TK2"_a.noconvert(),
             "interleaved"_a, "y_THK"_a.noconvert())
        .def("scale_heads", &scale_heads, "x_THK"_a.noconvert(), "factors_T"_a.noconvert(), "y_THK"_a.noconvert())
        .def("add", &add, "x_TD"_a.noconvert(), "y_TD"_a.noconvert(), "z_TD"_a.noconvert())
        .def("swiglu", &swiglu, "gate_up_TN"_a.noconvert(), "a_TF"_a.noconvert())
        .def("route", &route, "x_TD"_a.noconvert(), "router_ED"_a, "experts_TA"_a.noconvert(), "gates_TA"_a.noconvert())
        .def("quantize", &quantize, "x_TD"_a.noconvert(), "codes_RD"_a.noconvert(), "scales_R"_a.noconvert(),
             "places"_a.noconvert())
        .def("weigh", &weigh, "logits_V"_a.noconvert(), "largest"_a, "temperature"_a, "weights_V"_a.noconvert(),
             "sums_S"_a.noconvert())
        .def("reach", &reach, "values_V"_a.noconvert(), "floor"_a, "indices_V"_a.noconvert())
        .def("draw", &draw, "logits_RV"_a.noconvert(), "drawings_RM"_a.noconvert(), "tokens_R"_a.noconvert(),
             "best_R"_a.noconvert(), "A token of each row; see native/kernels.h.")
        .def("measure_int8", &measure_int8, "threads"_a,
             "Operations per second of products of int8 codes, from registers.")
        .def("measure_int4", &measure_int4, "threads"_a, "The same of four-bit codes once they are unpacked.");
    bind_attend(m, native);
    bind_packers(native);
}

}  // namespace twofold
