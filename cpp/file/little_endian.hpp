// Numbers at unaligned places of a file, little-endian as every platform of Constann is.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace constann::file {

static_assert(std::endian::native == std::endian::little, "Constann runs on little-endian machines only");

// Reads element `i` of an array that starts at `bytes`. The caller has checked the bounds.
template <class T>
T load(const std::byte* bytes, std::uint64_t i = 0) {
    T value;
    std::memcpy(&value, bytes + i * sizeof(T), sizeof value);
    return value;
}

}  // namespace constann::file
