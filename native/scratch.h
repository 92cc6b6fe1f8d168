// Working memory of a thread, kept between calls so that kernels do not allocate while they run.
#pragma once

#include <cstdint>

namespace twofold {

enum class Slot : int {
    kCodes,
    kPanel,
    kSums,
    kRows,
    kHidden,
    kAttend,
    kTasks,
    kPartials,
    kOrder,
    kOutputs,
    kPlaces,
    kExpanded,
    kWeights,
    kStretches,
    kKeys,
    kCount
};

// At least size_bytes of this thread's memory for this purpose, 64-byte aligned, contents undefined. Grows, never
// shrinks. Aborts when the system has none left: there is no way to go on inside a kernel.
void* scratch_bytes(Slot slot, int64_t size_bytes);

namespace {

template <class T>
T* scratch(Slot slot, int64_t count) {
    return static_cast<T*>(scratch_bytes(slot, count * static_cast<int64_t>(sizeof(T))));
}

}  // namespace
}  // namespace twofold
