// Padded rows in memory: how they are owned (zeroed, aligned) and how they are looked at (unaligned).
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <vector>

#include "core/large_pages.hpp"
#include "kernels/kernel_table.hpp"

namespace constann {

inline constexpr std::uint32_t kMaxDim = 65536;
inline constexpr std::uint64_t kMaxRows = 0xfffffffe;  // row numbers are 32 bits; the largest is kept free

// To a multiple of `group`.
constexpr std::uint64_t rounded_up(std::uint64_t count, std::uint64_t group) {
    return (count + group - 1) / group * group;
}

// Cache-line alignment, for speed alone: nothing may rely on it, as mapped rows do not have it.
template <class T>
struct CacheAligned {
    using value_type = T;
    CacheAligned() = default;
    template <class U>
    CacheAligned(const CacheAligned<U>&) noexcept {}
    T* allocate(std::size_t n) {
        if (n > PTRDIFF_MAX / sizeof(T)) throw std::bad_array_new_length();
        void* block = ::operator new(n * sizeof(T), std::align_val_t{64});
        ask_for_large_pages(block, n * sizeof(T));
        return static_cast<T*>(block);
    }
    void deallocate(T* p, std::size_t) noexcept { ::operator delete(p, std::align_val_t{64}); }
    bool operator==(const CacheAligned&) const = default;
};

using Floats = std::vector<float, CacheAligned<float>>;
using Bytes = std::vector<std::byte, CacheAligned<std::byte>>;
using NodeNumbers = std::vector<std::uint32_t, CacheAligned<std::uint32_t>>;

template <class Values>
std::span<const std::byte> bytes_of(const Values& values) {
    return std::as_bytes(std::span(values));
}

// A table of padded rows somewhere in memory: its own or a mapped file's. `stride` is a row's length in
// bytes.
class RowsView {
  public:
    RowsView() = default;
    RowsView(std::span<const std::byte> bytes, std::size_t stride)
        : bytes_(bytes), stride_(stride), count_(stride == 0 ? 0 : bytes.size() / stride) {}

    std::uint64_t size() const { return count_; }
    std::size_t stride() const { return stride_; }
    const std::byte* operator[](std::uint64_t row) const { return bytes_.data() + row * stride_; }
    std::span<const std::byte> bytes() const { return bytes_; }

  private:
    std::span<const std::byte> bytes_;
    std::size_t stride_ = 0;
    std::uint64_t count_ = 0;
};

}  // namespace constann
