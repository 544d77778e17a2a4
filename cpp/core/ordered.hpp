// Floats as integers of the same order: how every comparison of (number, row) is made total and exact.
#pragma once

#include <bit>
#include <cstdint>

namespace constann {

// Neither NaN nor infinite; inside the floating-point guard.
template <class T>
bool finite(T value) {
    return value - value == 0;
}

// Greater floats give greater integers. The float must not be NaN or -0.
inline std::uint32_t ordered_bits(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return bits ^ ((bits >> 31) ? 0xffffffffu : 0x80000000u);
}

inline float from_ordered_bits(std::uint32_t ordered) {
    return std::bit_cast<float>(ordered ^ ((ordered >> 31) ? 0x80000000u : 0xffffffffu));
}

// One integer that sorts by the float, then by the number.
inline std::uint64_t sort_key(float value, std::uint32_t number) {
    return (static_cast<std::uint64_t>(ordered_bits(value)) << 32) | number;
}

}  // namespace constann
