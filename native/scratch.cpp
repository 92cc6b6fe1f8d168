#include "scratch.h"

#include <cstdlib>

namespace twofold {
namespace {

struct Buffer {
    void* memory = nullptr;
    int64_t size_bytes = 0;
    ~Buffer() { std::free(memory); }
};

thread_local Buffer buffers[static_cast<int>(Slot::kCount)];

}  // namespace

void* scratch_bytes(Slot slot, int64_t size_bytes) {
    Buffer& buffer = buffers[static_cast<int>(slot)];
    if (buffer.size_bytes < size_bytes) {
        std::free(buffer.memory);
        const int64_t grown = (size_bytes + size_bytes / 4 + 4095) / 4096 * 4096;
        buffer.memory = std::aligned_alloc(4096, static_cast<size_t>(grown));
        if (buffer.memory == nullptr) std::abort();
        buffer.size_bytes = grown;
    }
    return buffer.memory;
}

}  // namespace twofold
