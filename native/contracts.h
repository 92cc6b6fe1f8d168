// What exported functions require of their arguments: dtypes by nanobind, shapes and ranges here, as ValueErrors.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"

namespace twofold {

namespace nb = nanobind;

template <class T, int kDimensions>
using In = nb::ndarray<const T, nb::ndim<kDimensions>, nb::device::cpu>;
template <class T, int kDimensions>
using Out = nb::ndarray<T, nb::ndim<kDimensions>, nb::device::cpu, nb::c_contig>;
using OutRows = nb::ndarray<float, nb::ndim<2>, nb::device::cpu>;  // rows may lie apart
template <class T>
using Any = nb::ndarray<const T, nb::device::cpu, nb::c_contig>;

inline void require(bool holds, const std::string& message) {
    if (!holds) throw nb::value_error(message.c_str());
}

inline std::string shape_of(const auto& array) {
    std::string text = "[";
    for (size_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
    return text + "]";
}

inline void require_shape(const auto& array, std::initializer_list<int64_t> expected, const char* name) {
    bool fits = array.ndim() == expected.size();
    size_t i = 0;
    for (const int64_t size : expected) fits = fits && static_cast<int64_t>(array.shape(i++)) == size;
    std::string wanted;
    for (const int64_t size : expected) wanted += (wanted.empty() ? "" : ", ") + std::to_string(size);
    require(fits, std::string(name) + " has shape " + shape_of(array) + "; expected [" + wanted + "]");
}

template <class T>
void require_range(const T* values, int64_t count, int64_t limit, const char* name) {
    for (int64_t i = 0; i < count; ++i)
        require(values[i] >= 0 && values[i] < limit, std::string(name) + " holds " + std::to_string(values[i]) +
                                                         "; expected 0 to " + std::to_string(limit - 1));
}

inline Rows rows_of(const In<float, 2>& x, const char* name) {
    require(x.size() == 0 || x.shape(1) <= 1 || x.stride(1) == 1, std::string(name) + " must have contiguous columns");
    return {x.data(), static_cast<int64_t>(x.shape(0)), static_cast<int64_t>(x.shape(1)), x.stride(0)};
}

inline Heads heads_of(const In<float, 3>& x, const char* name) {
    require(x.size() == 0 || x.shape(2) <= 1 || x.stride(2) == 1,
            std::string(name) + " must have a contiguous last axis");
    return {x.data(),
            static_cast<int64_t>(x.shape(0)),
            static_cast<int64_t>(x.shape(1)),
            static_cast<int64_t>(x.shape(2)),
            x.stride(0),
            x.stride(1)};
}

// A packed weight held from Python: its arrays, checked once.
struct PackedWeight {
    nb::object codes, multipliers, scales;  // owners; halves of a Group4 weight are its multipliers
    Weight view;
    bool is_stack;
};

// Kernels with their arguments, to run them again in one call.
struct Tape {
    std::vector<std::function<void()>> calls;

    void play() const {
        for (const std::function<void()>& call : calls) call();
    }
};

// The kernels of one ISA, so that several can be used side by side.
struct Native {
    const Kernels* kernels;
    std::string isa;
    std::unique_ptr<Tape> tape;  // null while nothing is recorded
    explicit Native(const std::string& name);

    void record() { tape = std::make_unique<Tape>(); }
    std::unique_ptr<Tape> recorded() { return std::move(tape); }

    // Runs what a contract allows, without the GIL. `call` owns its arguments, but not the memory they point to.
    template <class Call>
    void run(const Call& call) const {
        const nb::gil_scoped_release unlocked;
        call();
        if (tape) tape->calls.emplace_back(call);
    }
};

void bind_attend(nb::module_& m, nb::class_<Native>& native);
void bind_packers(nb::class_<Native>& native);
void bind_weights(nb::module_& m);
void bind_machine(nb::module_& m);

}  // namespace twofold
