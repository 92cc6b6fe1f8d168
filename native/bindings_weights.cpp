// Packed weights as Python objects: their arrays are checked once, when they are made.
#include <nanobind/stl/vector.h>

#include "contracts.h"

namespace twofold {
namespace {

int64_t padded(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

struct Shape {
    int64_t matrices, rows, columns;
    bool is_stack;
};

Shape read_shape(const std::vector<int64_t>& shape) {
    require(shape.size() == 2 || shape.size() == 3, "a packed weight has shape [N, D] or [E, N, D]");
    for (const int64_t size : shape) require(size > 0, "a packed weight has no empty axis");
    const bool is_stack = shape.size() == 3;
    return {is_stack ? shape[0] : 1, shape[shape.size() - 2], shape[shape.size() - 1], is_stack};
}

template <class T>
const T* take(const nb::object& array, int64_t count, const char* name) {
    const auto values = nb::cast<Any<T>>(array, false);
    require(
        static_cast<int64_t>(values.size()) == count,
        std::string(name) + " holds " + std::to_string(values.size()) + " items; expected " + std::to_string(count));
    return values.data();
}

PackedWeight make_dense(nb::object values, const std::vector<int64_t>& shape, bool is_bf16) {
    const Shape s = read_shape(shape);
    const int64_t count = s.matrices * s.rows * s.columns;
    const void* codes = is_bf16 ? static_cast<const void*>(take<uint16_t>(values, count, "values"))
                                : static_cast<const void*>(take<float>(values, count, "values"));
    return {values, nb::none(), nb::none(),
            Weight{is_bf16 ? Format::kBf16 : Format::kF32, codes, nullptr, nullptr, s.matrices, s.rows, s.columns},
            s.is_stack};
}

PackedWeight make_int8(nb::object codes, nb::object scales, const std::vector<int64_t>& shape) {
    const Shape s = read_shape(shape);
    const int64_t rows = s.matrices * padded(s.rows, kPanelRows), width = padded(s.columns, kColumnStep);
    return {codes, nb::none(), scales,
            Weight{Format::kInt8, take<int8_t>(codes, rows * width, "codes"), nullptr,
                   take<float>(scales, rows, "scales"), s.matrices, s.rows, s.columns},
            s.is_stack};
}

PackedWeight make_int4(nb::object codes, nb::object multipliers, nb::object scales, const std::vector<int64_t>& shape) {
    const Shape s = read_shape(shape);
    const int64_t rows = s.matrices * padded(s.rows, kPanelRows), width = padded(s.columns, kColumnStep);
    return {codes, multipliers, scales,
            Weight{Format::kInt4, take<uint8_t>(codes, rows * width / 2, "codes"),
                   take<uint8_t>(multipliers, rows / 2 * (width / kGroupColumns), "multipliers"),
                   take<float>(scales, rows, "scales"), s.matrices, s.rows, s.columns},
            s.is_stack};
}

}  // namespace

void bind_weights(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<PackedWeight>(m, "Weight", "A packed weight: checked once, its arrays kept alive.");
    m.def("dense", &make_dense, "values"_a, "shape"_a, "is_bf16"_a,
          "float32 values, or uint16 (bf16 bits) with is_bf16, contiguous [..., N, D].");
    m.def("int8", &make_int8, "codes"_a, "scales"_a, "shape"_a, "ops.packed.Int8 of this shape.");
    m.def("int4", &make_int4, "codes"_a, "multipliers"_a, "scales"_a, "shape"_a, "ops.packed.Int4 of this shape.");
}

}  // namespace twofold
