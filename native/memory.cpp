#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <iterator>
#include <mutex>
#include <thread>
#include <vector>

namespace twofold {
namespace {

// Sums 64-byte lines in eight independent chains; the compiler makes it plain loads and adds.
uint64_t read_all(const uint8_t* memory, int64_t size_bytes) {
    typedef uint64_t Line __attribute__((vector_size(64), may_alias));
    Line sums[4] = {};
    const Line* lines = reinterpret_cast<const Line*>(memory);
    constexpr int64_t kAhead = 32;  // lines: asked for ahead, as the kernels do; without it half the pace was seen
    for (int64_t i = 0; i + 4 <= size_bytes / 64; i += 4)
        for (int k = 0; k < 4; ++k) {
            __builtin_prefetch(lines + i + k + kAhead);
            sums[k] += lines[i + k];
        }
    const Line total = sums[0] + sums[1] + sums[2] + sums[3];
    uint64_t result = 0;
    for (int k = 0; k < 8; ++k) result += total[k];
    return result;
}

constexpr int64_t kMostKept = 64 * 1024 * 1024;  // a layer of 512 tokens of the benchmark networks gives back 60

struct Block {
    uint8_t* memory;
    int64_t size_bytes;
};

// What was given back, the latest last: sizes no longer asked for are the first to go.
struct Kept {
    std::mutex lock;
    std::deque<Block> blocks;
    int64_t size_bytes = 0;
};

Kept& kept() {
    static Kept* state = new Kept;  // never destroyed: arrays may outlive static destructors
    return *state;
}

// Rounded up to four steps per power of two, so that nearly equal sizes share.
int64_t size_class(int64_t size_bytes) {
    int64_t step = 16 * 1024;
    while (8 * step < size_bytes) step *= 2;
    return (std::max<int64_t>(size_bytes, 1) + step - 1) / step * step;
}

}  // namespace

uint8_t* map_memory(int64_t size_bytes) {
    void* memory = mmap(nullptr, static_cast<size_t>(std::max<int64_t>(size_bytes, 1)), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    madvise(memory, static_cast<size_t>(size_bytes), MADV_HUGEPAGE);
    return static_cast<uint8_t*>(memory);
}

void unmap_memory(uint8_t* memory, int64_t size_bytes) {
    munmap(memory, static_cast<size_t>(std::max<int64_t>(size_bytes, 1)));
}

uint8_t* take_memory(int64_t size_bytes) {
    const int64_t size = size_class(size_bytes);
    {
        const std::lock_guard<std::mutex> guard(kept().lock);
        std::deque<Block>& blocks = kept().blocks;
        const auto latest = std::find_if(blocks.rbegin(), blocks.rend(),
                                         [size](const Block& block) { return block.size_bytes == size; });
        if (latest != blocks.rend()) {
            uint8_t* memory = latest->memory;
            blocks.erase(std::next(latest).base());
            kept().size_bytes -= size;
            return memory;
        }
    }
    return map_memory(size);
}

void give_memory(uint8_t* memory, int64_t size_bytes) {
    const std::lock_guard<std::mutex> guard(kept().lock);
    std::deque<Block>& blocks = kept().blocks;
    blocks.push_back({memory, size_class(size_bytes)});
    kept().size_bytes += blocks.back().size_bytes;
    for (; kept().size_bytes > kMostKept; blocks.pop_front()) {
        unmap_memory(blocks.front().memory, blocks.front().size_bytes);
        kept().size_bytes -= blocks.front().size_bytes;
    }
}

double measure_read(int64_t size_bytes, int threads) {
    uint8_t* memory = map_memory(size_bytes);
    if (memory == nullptr) return 0;
    const int64_t share = size_bytes / threads / 4096 * 4096;
    double best = 0;
    std::atomic<uint64_t> sink{0};
    for (int pass = -1; pass < 3; ++pass) {  // pass -1 takes the pages
        const auto start = std::chrono::steady_clock::now();
        std::vector<std::thread> readers;
        for (int index = 0; index < threads; ++index)
            readers.emplace_back([&, index] {
                uint8_t* part = memory + share * index;
                if (pass < 0) std::memset(part, index + 1, static_cast<size_t>(share));
                sink += read_all(part, share);
            });
        for (std::thread& reader : readers) reader.join();
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
        if (pass >= 0) best = std::max(best, static_cast<double>(share) * threads / taken.count());
    }
    unmap_memory(memory, size_bytes);
    return best;
}

}  // namespace twofold
