#include "threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

#include "machine.h"

namespace twofold {
namespace {

constexpr int kMaxThreads = 256;
constexpr auto kSpinTime = std::chrono::microseconds(100);  // the gap between two ops of a decode step is a few

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Whether done() became true within kSpinTime. A pause lasts 40 to 140 cycles, so the clock is asked now and then.
template <class Done>
bool spin_until(const Done& done) {
    const auto stop = std::chrono::steady_clock::now() + kSpinTime;
    do {
        for (int i = 0; i < 64; ++i) {
            if (done()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() < stop);
    return false;
}

struct Region {
    RangeTask task;
    const void* context;
    int64_t count;
    int parts;
};

void run_part(const Region& region, int part) {
    const int64_t first = region.count * part / region.parts, last = region.count * (part + 1) / region.parts;
    if (first < last) region.task(region.context, first, last);
}

thread_local bool inside_region = false;

class Pool {
  public:
    explicit Pool(int count) : workers_(count - 1), spins_(count <= physical_cores()) {
        for (int index = 0; index < workers_; ++index) threads_.emplace_back([this, index] { work(index + 1); });
    }
    ~Pool() {
        region_ = Region{nullptr, nullptr, 0, 0};
        announce();
        for (std::thread& thread : threads_) thread.join();
    }

    void run(const Region& region) {
        region_ = region;
        pending_.store(workers_, std::memory_order_relaxed);
        announce();
        run_part(region, 0);
        if (spins_) spin_until([this] { return pending_.load(std::memory_order_acquire) == 0; });
        for (int left; (left = pending_.load(std::memory_order_acquire)) > 0;) pending_.wait(left);
    }

  private:
    // The number of the region is what workers wait for; region_ is written before it grows.
    void announce() {
        turn_.fetch_add(1, std::memory_order_release);
        turn_.notify_all();
    }

    void work(int part) {
        inside_region = true;
        for (uint32_t seen = 0;; ++seen) {
            if (spins_) spin_until([this, seen] { return turn_.load(std::memory_order_acquire) != seen; });
            turn_.wait(seen, std::memory_order_acquire);
            const Region region = region_;
            if (region.task == nullptr) return;
            if (part < region.parts) run_part(region, part);
            if (pending_.fetch_sub(1, std::memory_order_release) == 1) pending_.notify_one();
        }
    }

    const int workers_;
    const bool spins_;  // with more threads than cores a spinning one would keep another from its work
    Region region_{};
    alignas(64) std::atomic<uint32_t> turn_{0};
    alignas(64) std::atomic<int> pending_{0};
    std::vector<std::thread> threads_;
};

// Held by pointer: after fork() the child has none of the threads and must forget pool and lock as they were.
struct Shared {
    std::mutex* lock = new std::mutex;
    Pool* pool = nullptr;
    std::atomic<int> wanted{0};
};

void forget_pool();

Shared& shared() {
    static Shared* state = [] {
        pthread_atfork(nullptr, nullptr, forget_pool);
        return new Shared;  // never destroyed: workers may outlive static destructors
    }();
    return *state;
}

void forget_pool() {
    shared().lock = new std::mutex;
    shared().pool = nullptr;
    inside_region = false;
}

}  // namespace

int physical_cores() {
    static const int cores = machine_cores();
    return cores;
}

int threads() {
    const int wanted = shared().wanted.load(std::memory_order_relaxed);
    return wanted > 0 ? wanted : std::min(physical_cores(), kMaxThreads);
}

void set_threads(int count) {
    Shared& state = shared();
    const std::lock_guard<std::mutex> guard(*state.lock);
    state.wanted.store(std::clamp(count, 0, kMaxThreads), std::memory_order_relaxed);
    delete state.pool;
    state.pool = nullptr;
}

void run_ranges(int64_t count, int64_t grain, RangeTask task, const void* context) {
    if (count <= 0) return;
    const int64_t most = std::max<int64_t>(1, count / std::max<int64_t>(1, grain));
    if (most == 1 || inside_region || threads() == 1) return task(context, 0, count);
    Shared& state = shared();
    const std::lock_guard<std::mutex> guard(*state.lock);
    if (state.pool == nullptr) state.pool = new Pool(threads());
    inside_region = true;
    state.pool->run(Region{task, context, count, static_cast<int>(std::min<int64_t>(most, threads()))});
    inside_region = false;
}

}  // namespace twofold
