// See row_store.hpp.
#include "core/row_store.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>

#include "core/large_pages.hpp"

namespace constann {
namespace {

constexpr std::size_t kBoundary = 64;

std::size_t offset_to_boundary(const std::byte* block) {
    return (kBoundary - reinterpret_cast<std::uintptr_t>(block) % kBoundary) % kBoundary;
}

}  // namespace

void RowStore::resize(std::size_t size) {
    if (size > capacity_) {
        // Memory that is not written yet costs nothing; large blocks are moved by remapping, not by copying.
        const std::size_t capacity = std::max(size, capacity_ + capacity_ / 4);
        if (capacity > PTRDIFF_MAX - kBoundary) throw std::bad_alloc();
        void* moved = std::realloc(block_.get(), capacity + kBoundary);
        if (moved == nullptr) throw std::bad_alloc();
        static_cast<void>(block_.release());  // realloc has freed it
        block_.reset(static_cast<std::byte*>(moved));
        ask_for_large_pages(block_.get(), capacity + kBoundary);
        const std::size_t offset = offset_to_boundary(block_.get());
        if (offset != offset_ && size_ != 0) std::memmove(block_.get() + offset, begin(), size_);
        offset_ = offset;
        capacity_ = capacity;
    }
    if (size > size_) std::memset(begin() + size_, 0, size - size_);
    size_ = size;
}

}  // namespace constann
