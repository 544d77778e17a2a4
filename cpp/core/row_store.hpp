// Bytes that grow without ever lying twice in memory: what an index's rows are added to. Zeroed, and on a
// cache line's boundary for speed.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>

namespace constann {

class RowStore {
  public:
    std::size_t size() const { return size_; }
    std::span<std::byte> bytes() { return {begin(), size_}; }
    std::span<const std::byte> bytes() const { return {begin(), size_}; }

    // New bytes are 0. Throws std::bad_alloc, and then is as it was. Views of the bytes are void afterwards.
    void resize(std::size_t size);

  private:
    struct Free {
        void operator()(std::byte* block) const noexcept { std::free(block); }
    };

    std::byte* begin() const { return block_.get() + offset_; }

    std::unique_ptr<std::byte, Free> block_;
    std::size_t offset_ = 0;  // of the first byte, so that it lies on the boundary
    std::size_t size_ = 0;
    std::size_t capacity_ = 0;
};

}  // namespace constann
