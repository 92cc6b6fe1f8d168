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

// A region's pieces are claimed one after another through a single word, so that a thread which comes late, or never,
// takes none and keeps nobody waiting. Whoever owns a piece may read the region: it cannot end before that piece has.
//     word = turn (24 bits) | pieces (20) | next piece (20); a claim adds 1
struct Region {
    RangeTask task;
    const void* context;
    int64_t count;
    bool shrinks;  // each piece is smaller than the one before it, so that threads end at about the same time

    int64_t begin_of(int64_t piece, int64_t pieces) const {
        const int64_t left = pieces - piece;
        return shrinks ? count - count * left / pieces * left / pieces : count * piece / pieces;
    }
};

constexpr uint64_t kPieceBits = 20, kPieceMask = (1u << kPieceBits) - 1;
constexpr int64_t kPiecesPerThread = 8;  // enough to even out threads of unequal speed; a claim costs some 20 ns
static_assert(kMaxThreads * kPiecesPerThread + kMaxThreads < static_cast<int64_t>(kPieceMask));

thread_local bool inside_region = false;

class Pool {
  public:
    explicit Pool(int count) : workers_(count - 1), spins_(count <= physical_cores()) {
        for (int index = 0; index < workers_; ++index) threads_.emplace_back([this] { work(); });
    }
    ~Pool() {
        ends_.store(true, std::memory_order_relaxed);
        announce();
        for (std::thread& thread : threads_) thread.join();
    }

    void run(const Region& region, int64_t pieces) {
        region_ = region;
        done_.store(0, std::memory_order_relaxed);
        const uint64_t turn = turn_.load(std::memory_order_relaxed) + 1;
        word_.store(turn << (2 * kPieceBits) | static_cast<uint64_t>(pieces) << kPieceBits, std::memory_order_release);
        announce();
        run_pieces();
        const auto is_done = [this, pieces] { return done_.load(std::memory_order_acquire) == pieces; };
        if (spins_) spin_until(is_done);
        for (int64_t done; (done = done_.load(std::memory_order_acquire)) != pieces;) done_.wait(done);
    }

  private:
    // The turn is what workers wait for.
    void announce() {
        turn_.fetch_add(1, std::memory_order_release);
        turn_.notify_all();
    }

    void run_pieces() {
        for (;;) {
            const uint64_t word = word_.fetch_add(1, std::memory_order_acquire);
            const auto pieces = static_cast<int64_t>(word >> kPieceBits & kPieceMask);
            const auto piece = static_cast<int64_t>(word & kPieceMask);
            if (piece >= pieces) return;
            const Region region = region_;
            region.task(region.context, region.begin_of(piece, pieces), region.begin_of(piece + 1, pieces));
            if (done_.fetch_add(1, std::memory_order_release) + 1 == pieces) done_.notify_one();
        }
    }

    void work() {
        inside_region = true;
        for (uint32_t seen = 0;;) {
            if (spins_) spin_until([this, seen] { return turn_.load(std::memory_order_acquire) != seen; });
            turn_.wait(seen, std::memory_order_acquire);
            seen = turn_.load(std::memory_order_acquire);
            if (ends_.load(std::memory_order_relaxed)) return;
            run_pieces();
        }
    }

    const int workers_;
    const bool spins_;  // with more threads than cores a spinning one would keep another from its work
    Region region_{};
    alignas(64) std::atomic<uint64_t> word_{0};
    alignas(64) std::atomic<uint32_t> turn_{0};
    alignas(64) std::atomic<int64_t> done_{0};
    std::atomic<bool> ends_{false};
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
    const int64_t all = threads() * kPiecesPerThread;  // with fewer pieces the first would be too much for one thread
    state.pool->run(Region{task, context, count, most >= all}, std::min(most, all));
    inside_region = false;
}

}  // namespace twofold
