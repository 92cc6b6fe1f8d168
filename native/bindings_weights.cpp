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

PackedWeight make_group4(nb::object codes, nb::object halves, const std::vector<int64_t>& shape) {
    const Shape s = read_shape(shape);
    const int64_t rows = s.matrices * padded(s.rows, kPanelRows), width = padded(s.columns, kColumnStep);
    return {codes, halves, nb::none(),
            Weight{Format::kGroup4, take<uint8_t>(codes, rows * width / 2, "codes"), nullptr, nullptr, s.matrices,
                   s.rows, s.columns, take<uint16_t>(halves, rows * 2 * (width / kGroupColumns), "halves")},
            s.is_stack};
}

PackedWeight make_fp8(nb::object values, nb::object scales, const std::vector<int64_t>& shape) {
    const Shape s = read_shape(shape);
    const int64_t rows = s.matrices * s.rows;
    return {values, nb::none(), scales,
            Weight{Format::kFp8, take<uint8_t>(values, rows * s.columns, "values"), nullptr,
                   take<float>(scales, rows, "scales"), s.matrices, s.rows, s.columns},
            s.is_stack};
}

// What a packer may write: rows of whole panels inside the weight, or its last rows.
SourceRows source_of(const nb::ndarray<nb::ndim<2>, nb::device::cpu, nb::ro>& rows, const PackedWeight& into,
                     int64_t first_row) {
    const bool is_f32 = rows.dtype() == nb::dtype<float>(), is_bf16 = rows.dtype() == nb::dtype<uint16_t>();
    const bool is_f16 = rows.dtype() == nb::dlpack::dtype{static_cast<uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
    if (!is_f32 && !is_bf16 && !is_f16) throw nb::type_error("rows_ND must be float32, float16 or uint16 (bf16 bits)");
    const Weight& w = into.view;
    const auto count = static_cast<int64_t>(rows.shape(0)), columns = static_cast<int64_t>(rows.shape(1));
    require(w.format != Format::kGroup4 && w.format != Format::kFp8, "this format is not packed natively");
    require(!into.is_stack && columns == w.columns, "rows_ND must have the columns of a 2-D weight");
    require(first_row >= 0 && first_row % kPanelRows == 0 && first_row + count <= w.rows &&
                (count % kPanelRows == 0 || first_row + count == w.rows),
            "rows must be whole panels of 16 inside the weight, or its last rows");
    const Source type = is_f32 ? Source::kF32 : is_bf16 ? Source::kBf16 : Source::kF16;
    return {type, rows.data(), count, columns, rows.stride(0), rows.stride(1)};
}

WeightOut target_of(const PackedWeight& into) {
    const Weight& w = into.view;
    return {
        w.format, const_cast<void*>(w.codes), const_cast<uint8_t*>(w.multipliers), const_cast<float*>(w.scales), w.rows,
        w.columns};
}

void encode(const Native& native, const nb::ndarray<nb::ndim<2>, nb::device::cpu, nb::ro>& rows,
            const PackedWeight& into, int64_t first_row) {
    const SourceRows source = source_of(rows, into, first_row);
    const nb::gil_scoped_release unlocked;
    if (source.rows > 0) native.kernels->encode(source, nullptr, target_of(into), first_row);
}

void encode_residual(const Native& native, const nb::ndarray<nb::ndim<2>, nb::device::cpu, nb::ro>& rows,
                     const PackedWeight& coarse, const PackedWeight& into, int64_t first_row) {
    const SourceRows source = source_of(rows, into, first_row);
    require(coarse.view.format == Format::kInt4 && into.view.format == Format::kInt4 && !coarse.is_stack &&
                coarse.view.rows == into.view.rows && coarse.view.columns == into.view.columns,
            "a residual and what it refines must be Int4 weights of the same shape");
    const nb::gil_scoped_release unlocked;
    if (source.rows > 0) native.kernels->encode(source, &coarse.view, target_of(into), first_row);
}

}  // namespace

void bind_packers(nb::class_<Native>& native) {
    using namespace nb::literals;
    native
        .def("encode", &encode, "rows_ND"_a.noconvert(), "into"_a, "first_row"_a,
             "Pack rows of float32, float16 or uint16 (bf16 bits), any strides.")
        .def("encode_residual", &encode_residual, "rows_ND"_a.noconvert(), "coarse"_a, "into"_a, "first_row"_a,
             "Pack what the coarse weight lost of these rows.");
}

void bind_weights(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<PackedWeight>(m, "Weight", "A packed weight: checked once, its arrays kept alive.");
    m.def("dense", &make_dense, "values"_a, "shape"_a, "is_bf16"_a,
          "float32 values, or uint16 (bf16 bits) with is_bf16, contiguous [..., N, D].");
    m.def("int8", &make_int8, "codes"_a, "scales"_a, "shape"_a, "ops.packed.Int8 of this shape.");
    m.def("int4", &make_int4, "codes"_a, "multipliers"_a, "scales"_a, "shape"_a, "ops.packed.Int4 of this shape.");
    m.def("group4", &make_group4, "codes"_a, "halves"_a, "shape"_a, "ops.packed.Group4; halves as uint16.");
    m.def("fp8", &make_fp8, "values"_a, "scales"_a, "shape"_a, "ops.packed.Fp8 of this shape.");
}

}  // namespace twofold
