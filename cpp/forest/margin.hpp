// On which side of a split, and how far from it. Building and searching must agree on this to the bit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace constann {

// `product` is the kernel's inner product of plane and row. Where infinities cancel, the row lies on the
// plane.
inline float margin(float offset, float product) {
    const float sum = offset + product;
    return sum == sum ? sum : 0.0f;
}

// Whether a packed row has bit number `bit`, counted from the highest of each byte as numpy.packbits does.
inline bool has_bit(const std::byte* row, std::uint32_t bit) {
    return (row[bit / 8] >> (7 - bit % 8) & std::byte{1}) != std::byte{0};
}

}  // namespace constann
