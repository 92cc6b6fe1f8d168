#include "mapping.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>
#include <vector>

namespace twofold {
namespace {

constexpr int64_t kHugePage = 2 * 1024 * 1024;
constexpr int64_t kPiece = 8 * kHugePage;  // what is in memory twice while it is copied
constexpr int kNiceness = 5;               // kernels that run meanwhile come first

size_t bytes(int64_t count) { return static_cast<size_t>(count); }
int64_t whole_pages(int64_t count) { return (count + kHugePage - 1) / kHugePage * kHugePage; }

// Addresses of `size` bytes of whole huge pages; null when the system refuses.
uint8_t* reserve(int64_t size, int protection) {
    void* found =
        mmap(nullptr, bytes(size + kHugePage), protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) return nullptr;
    auto* first = static_cast<uint8_t*>(found);
    const int64_t slack = -reinterpret_cast<intptr_t>(first) & (kHugePage - 1);
    if (slack > 0) munmap(first, bytes(slack));
    munmap(first + slack + size, bytes(kHugePage - slack));
    return first + slack;
}

bool holds(int descriptor, int64_t size_bytes) {
    struct stat found;
    return fstat(descriptor, &found) == 0 && found.st_size >= size_bytes;
}

// Whether the page cache holds all of a mapping but a hundredth.
bool is_cached(uint8_t* memory, int64_t size_bytes) {
    const int64_t page = sysconf(_SC_PAGESIZE), pages = (size_bytes + page - 1) / page;
    std::vector<unsigned char> states(bytes(pages));
    if (mincore(memory, bytes(size_bytes), states.data()) != 0) return false;
    const int64_t held = std::count_if(states.begin(), states.end(), [](unsigned char state) { return state & 1; });
    return held >= pages - pages / 100;
}

}  // namespace

MappedFile::MappedFile(int descriptor, int64_t begin, int64_t size_bytes)
    : descriptor_(dup(descriptor)), begin_(begin), size_bytes_(size_bytes), owner_(getpid()) {
    if (descriptor_ >= 0 && size_bytes > 0 && holds(descriptor_, begin + size_bytes))
        memory_ = reserve(whole_pages(size_bytes), PROT_NONE);
    is_mapped_ = memory_ != nullptr && map();
    if (!is_mapped_) return;
    try {
        copier_ = std::thread([this] { end(copy_all() ? State::kCopied : State::kFailed); });
    } catch (const std::system_error&) {
        end(State::kFailed);
    }
}

MappedFile::~MappedFile() {
    is_stopped_.store(true);
    if (copier_.joinable() && owner_ == getpid())
        copier_.join();
    else if (copier_.joinable())
        copier_.detach();
    if (memory_ != nullptr) munmap(memory_, bytes(whole_pages(size_bytes_)));
    if (descriptor_ >= 0) close(descriptor_);
}

bool MappedFile::settle() const {
    if (owner_ == getpid()) state_.wait(State::kCopying);
    return state_.load() != State::kFailed;
}

void MappedFile::end(State state) {
    state_.store(state);
    state_.notify_all();
}

bool MappedFile::map() const {
    return mmap(memory_, bytes(size_bytes_), PROT_READ, MAP_SHARED | MAP_FIXED, descriptor_, begin_) == memory_ &&
           is_cached(memory_, size_bytes_);
}

// From the end on: there is the head, which every token reads. Copies lie side by side before they are moved, so that
// in the end they are one mapping again.
bool MappedFile::copy_all() const {
    setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kNiceness);
    int64_t left = whole_pages(size_bytes_);
    uint8_t* copies = reserve(left, PROT_READ | PROT_WRITE);
    if (copies == nullptr) return false;
    madvise(copies, bytes(left), MADV_HUGEPAGE);
    bool is_copied = true;
    while (left > 0 && is_copied && !is_stopped_.load(std::memory_order_relaxed)) {
        const int64_t first = (left - 1) / kPiece * kPiece;
        const size_t size = bytes(left - first);
        is_copied = read_piece(copies + first, first) &&
                    mremap(copies + first, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, memory_ + first) != MAP_FAILED;
        if (is_copied) left = first;
    }
    if (left > 0) munmap(copies, bytes(left));
    return is_copied;
}

bool MappedFile::read_piece(uint8_t* into, int64_t first) const {
    const int64_t count = std::min(kPiece, size_bytes_ - first);
    for (int64_t done = 0; done < count;) {
        const ssize_t got = pread(descriptor_, into + done, bytes(count - done), begin_ + first + done);
        if (got <= 0) return false;
        done += got;
    }
    return true;
}

}  // namespace twofold
