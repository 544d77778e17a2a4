// A caller's array as it lies in memory (any accepted element type, any strides) and its reading into padded
// float32 rows. Reading is the only place where numbers are converted, and where bad ones are stopped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace constann {

// In the order of the readers in matrix.cpp.
enum class ElementType { float16, float32, float64, int8, uint8, int16, uint16 };

struct Matrix {
    const std::byte* data;
    ElementType type;
    std::uint64_t rows;
    std::uint64_t columns;
    std::ptrdiff_t row_stride;     // bytes; may be 0 or negative
    std::ptrdiff_t column_stride;  // bytes

    const std::byte* at(std::uint64_t row, std::uint64_t column) const {
        return data + static_cast<std::ptrdiff_t>(row) * row_stride +
               static_cast<std::ptrdiff_t>(column) * column_stride;
    }
};

// Writes row `row` as float32 to `out`, whose floats beyond the columns become 0.
// Throws std::invalid_argument naming row and column where a value is NaN, infinite, or overflows float32.
// Call it inside the floating-point guard.
void read_row(const Matrix& matrix, std::uint64_t row, std::span<float> out);

}  // namespace constann
