// Memory for weights and for what ops return: anonymous, page aligned, huge pages asked for; how fast it can be read.
#pragma once

#include <cstdint>

namespace twofold {

// Null when the system has no room. Zeroed by the kernel, which takes pages at first touch.
uint8_t* map_memory(int64_t size_bytes);
void unmap_memory(uint8_t* memory, int64_t size_bytes);

// The same, but used again: give_memory keeps some of what it gets for the next take_memory of about that size,
// contents as they were. A fresh page costs a fault and zeroing, which took a tenth of a prefill. Safe from any thread.
uint8_t* take_memory(int64_t size_bytes);
void give_memory(uint8_t* memory, int64_t size_bytes);

// Bytes per second that `threads` threads read from a buffer of this size, best of three passes; 0 without memory.
double measure_read(int64_t size_bytes, int threads);

}  // namespace twofold
