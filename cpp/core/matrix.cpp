// See matrix.hpp.
#include "core/matrix.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace constann {
namespace {

struct Half {
    std::uint16_t bits;
};

// By integers alone: hardware conversions of float16 are not part of every baseline.
float to_float32(Half half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half.bits & 0x8000u) << 16;
    std::uint32_t exponent = (half.bits >> 10) & 0x1fu;
    std::uint32_t fraction = half.bits & 0x3ffu;
    if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
    if (exponent == 0) {
        if (fraction == 0) return std::bit_cast<float>(sign);
        for (exponent = 1; !(fraction & 0x400u); fraction <<= 1) --exponent;  // wraps below 0 as intended
        fraction &= 0x3ffu;
    }
    return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (fraction << 13));
}
float to_float32(float value) {
    return value;
}
float to_float32(double value) {
    return static_cast<float>(value);
}
float to_float32(std::int8_t value) {
    return static_cast<float>(value);
}
float to_float32(std::uint8_t value) {
    return static_cast<float>(value);
}
float to_float32(std::int16_t value) {
    return static_cast<float>(value);
}
float to_float32(std::uint16_t value) {
    return static_cast<float>(value);
}

bool is_finite(float value) {
    return (std::bit_cast<std::uint32_t>(value) & 0x7f800000u) != 0x7f800000u;
}

bool is_finite(double value) {
    constexpr std::uint64_t kExponent = 0x7ff0000000000000u;
    return (std::bit_cast<std::uint64_t>(value) & kExponent) != kExponent;
}

template <class T>
T value_at(const Matrix& matrix, std::uint64_t row, std::uint64_t column) {
    T value;
    std::memcpy(&value,
                matrix.data + static_cast<std::ptrdiff_t>(row) * matrix.row_stride +
                    static_cast<std::ptrdiff_t>(column) * matrix.column_stride,
                sizeof value);
    return value;
}

[[noreturn]] void refuse(std::uint64_t row, std::uint64_t column, const char* what) {
    throw std::invalid_argument("row " + std::to_string(row) + ", column " + std::to_string(column) + " is " +
                                what + ": remove or replace it");
}

template <class T>
void read_as(const Matrix& matrix, std::uint64_t row, std::span<float> out) {
    for (std::uint64_t column = 0; column < matrix.columns; ++column) {
        const T value = value_at<T>(matrix, row, column);
        const float converted = to_float32(value);
        if (!is_finite(converted)) {
            if constexpr (std::is_same_v<T, double>) {
                if (is_finite(value)) refuse(row, column, "too large for float32");
            }
            refuse(row, column, converted != converted ? "NaN" : "infinite");
        }
        out[column] = converted;
    }
    std::fill(out.begin() + static_cast<std::ptrdiff_t>(matrix.columns), out.end(), 0.0f);
}

}  // namespace

void read_row(const Matrix& matrix, std::uint64_t row, std::span<float> out) {
    switch (matrix.type) {
        case ElementType::float16:
            return read_as<Half>(matrix, row, out);
        case ElementType::float32:
            return read_as<float>(matrix, row, out);
        case ElementType::float64:
            return read_as<double>(matrix, row, out);
        case ElementType::int8:
            return read_as<std::int8_t>(matrix, row, out);
        case ElementType::uint8:
            return read_as<std::uint8_t>(matrix, row, out);
        case ElementType::int16:
            return read_as<std::int16_t>(matrix, row, out);
        case ElementType::uint16:
            return read_as<std::uint16_t>(matrix, row, out);
    }
}

}  // namespace constann
