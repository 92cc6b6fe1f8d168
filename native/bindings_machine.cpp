// The machine as Python sees it: instruction sets, threads, memory for weights, measured limits.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <new>

#include "contracts.h"
#include "dispatch.h"
#include "machine.h"
#include "mapping.h"
#include "memory.h"
#include "threads.h"

namespace twofold {
namespace {

// What an array owns: memory that goes back by kRelease when the last view of it is gone. Throws without memory.
template <void (*kRelease)(uint8_t*, int64_t)>
nb::capsule owner_of(uint8_t* memory, int64_t size_bytes) {
    struct Region {
        uint8_t* memory;
        int64_t size_bytes;
    };
    if (memory == nullptr) throw std::bad_alloc();
    return nb::capsule(new Region{memory, size_bytes}, [](void* region) noexcept {
        auto* mine = static_cast<Region*>(region);
        kRelease(mine->memory, mine->size_bytes);
        delete mine;
    });
}

nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>> arena(int64_t size_bytes) {
    require(size_bytes >= 0, "size_bytes must not be negative");
    uint8_t* memory = map_memory(size_bytes);
    const size_t shape[1] = {static_cast<size_t>(size_bytes)};
    return nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(memory, 1, shape, owner_of<unmap_memory>(memory, size_bytes));
}

// float32 of this shape, contents undefined, in memory of take_memory's.
nb::ndarray<nb::numpy, float> floats(const std::vector<size_t>& shape) {
    int64_t size_bytes = sizeof(float);
    for (const size_t extent : shape)
        if (__builtin_mul_overflow(size_bytes, extent, &size_bytes)) throw std::bad_alloc();
    uint8_t* memory = take_memory(size_bytes);
    return nb::ndarray<nb::numpy, float>(memory, shape.size(), shape.data(), owner_of<give_memory>(memory, size_bytes));
}

}  // namespace

void bind_machine(nb::module_& m) {
    using namespace nb::literals;
    const auto names = [](const std::vector<Isa>& found) {
        std::vector<std::string> result;
        for (const Isa& isa : found) result.push_back(isa.name);
        return result;
    };
    m.def("isas", [names] { return names(isas()); }, "ISAs of this build that this CPU runs, the best last.");
    m.def(
        "testable_isas", [names] { return names(testable_isas()); },
        "The same, and before them those that imitate instructions of other CPUs: for tests.");
    m.def("threads", &threads, "Threads that kernels use.");
    m.def(
        "set_threads",
        [](int count) {
            require(count >= 0 && count <= 256, "threads must be 1 to 256, or 0 for one per physical core");
            const nb::gil_scoped_release unlocked;
            set_threads(count);
        },
        "count"_a, "Threads that kernels use from now on, 1 to 256; 0: one per physical core this process may use.");
    m.def(
        "cpu",
        [] {
            nb::dict result;
            result["name"] = machine_name();
            result["features"] = machine_features();
            result["cores"] = physical_cores();
            constexpr const char* kTileStates[] = {"none", "not saved", "refused", "granted"};
            result["tiles"] = kTileStates[static_cast<int>(tile_state())];
            return result;
        },
        "Name, features and usable physical cores of this CPU.");
    m.def("arena", &arena, "size_bytes"_a,
          "Zeroed uint8 [size_bytes] on pages of its own, huge ones if the system has them.");
    nb::class_<MappedFile>(m, "MappedFile", nb::is_weak_referenceable(),
                           "Bytes of an open file as memory: mapped, and copied in the background.")
        .def(nb::init<int, int64_t, int64_t>(), "descriptor"_a, "begin"_a, "size_bytes"_a)
        .def(
            "memory",
            [](nb::handle self) -> std::optional<nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>> {
                const auto& mapped = nb::cast<const MappedFile&>(self);
                if (mapped.memory() == nullptr) return std::nullopt;
                const size_t shape[1] = {static_cast<size_t>(mapped.size_bytes())};
                return nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(mapped.memory(), 1, shape, self);
            },
            "Read-only uint8 [size_bytes]; None where the bytes are better read (native/mapping.h).")
        .def("settle", &MappedFile::settle, nb::call_guard<nb::gil_scoped_release>(),
             "Wait until all is copied; False when that failed.");
    m.def("floats", &floats, "shape"_a, "float32 array in memory that is used again, contents undefined.");
    m.def(
        "measure_read",
        [](int64_t size_bytes, int threads) {
            require(size_bytes >= threads * 4096 && threads > 0, "measure_read needs a page per thread");
            const nb::gil_scoped_release unlocked;
            return measure_read(size_bytes, threads);
        },
        "size_bytes"_a, "threads"_a, "Bytes per second read sequentially from memory.");
}

}  // namespace twofold
