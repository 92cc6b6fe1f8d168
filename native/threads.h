// A fixed pool of threads. The caller takes part; work is cut into contiguous ranges that the threads claim one after
// another. No result depends on who ran what: kernels give every task its own output and reduce in the tasks' order.
//
// Workers spin for a moment after a region (the next one of a decode step is microseconds away), then sleep. Regions
// of two callers follow one another. After fork() the child starts a pool of its own at its first region.
#pragma once

#include <cstdint>

namespace twofold {

// Physical cores this process may use: affinity, one per pair of hyper-threads, at most the cgroup's CPU quota.
int physical_cores();

int threads();
void set_threads(int count);  // 0: physical_cores(); at most 256

using RangeTask = void (*)(const void* context, int64_t first, int64_t last);

// Calls task on contiguous ranges that cover [0, count), each of at least `grain` but for the last.
// Called from inside a region it runs everything itself.
void run_ranges(int64_t count, int64_t grain, RangeTask task, const void* context);

namespace {

// parallel(count, grain, [&](int64_t first, int64_t last) { ... })
template <class Body>
void parallel(int64_t count, int64_t grain, const Body& body) {
    run_ranges(
        count, grain,
        [](const void* context, int64_t first, int64_t last) { (*static_cast<const Body*>(context))(first, last); },
        &body);
}

}  // namespace
}  // namespace twofold
