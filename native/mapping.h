// A stretch of a file as memory that can be read at once: mapped, and copied behind its readers into huge pages.
//
// Reading gigabytes into fresh memory takes seconds where pages come slowly (a virtual machine that gave them back to
// its host); mapping what the page cache holds takes none. But a file's pages are small, and small pages cost decoding
// a fifth of its pace: so a thread copies piece by piece and moves every copy over its piece, at the same address.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <thread>

namespace twofold {

class MappedFile {
  public:
    // Bytes [begin, begin + size_bytes) of an open file. Until all is copied the file must not become shorter:
    // reading a mapped page that it no longer has is fatal.
    MappedFile(int descriptor, int64_t begin, int64_t size_bytes);
    ~MappedFile();  // stops the copying
    MappedFile(const MappedFile&) = delete;

    // Null where mapping gains nothing or is not possible: the page cache does not hold the file, the file ends sooner,
    // `begin` is not at a page, the system refuses.
    const uint8_t* memory() const { return is_mapped_ ? memory_ : nullptr; }
    int64_t size_bytes() const { return size_bytes_; }

    // Waits until everything is copied. False when that failed; what is not copied stays mapped, and usable.
    bool settle() const;

  private:
    enum class State { kCopying, kCopied, kFailed };

    bool map() const;
    void end(State state);
    bool copy_all() const;
    bool read_piece(uint8_t* into, int64_t first) const;

    const int descriptor_;
    const int64_t begin_, size_bytes_;
    const pid_t owner_;  // a fork() has the memory, but nobody who copies
    uint8_t* memory_ = nullptr;
    bool is_mapped_ = false;
    std::atomic<bool> is_stopped_{false};
    std::atomic<State> state_{State::kCopying};
    std::thread copier_;
};

}  // namespace twofold
