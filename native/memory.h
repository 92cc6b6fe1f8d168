// Memory for weights: anonymous, page aligned, huge pages asked for; and how fast memory can be read.
#pragma once

#include <cstdint>

namespace twofold {

// Null when the system has no room. Zeroed by the kernel, which takes pages at first touch.
uint8_t* map_memory(int64_t size_bytes);
void unmap_memory(uint8_t* memory, int64_t size_bytes);

// Bytes per second that `threads` threads read from a buffer of this size, best of three passes; 0 without memory.
double measure_read(int64_t size_bytes, int threads);

}  // namespace twofold
