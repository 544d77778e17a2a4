// See matrix.hpp.
#include "core/matrix.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/ordered.hpp"
#include "file/little_endian.hpp"

namespace constann {
namespace {

struct Half {
    std::uint16_t bits;
};

// Hardware conversions of float16 are not part of every baseline. Its bits, put where float32 has them, are
// the number but for a power of two, which is exact for denormal ones too.
float to_float32(Half half) {
    const std::uint32_t bits = (half.bits & 0x8000u) << 16 | (half.bits & 0x7fffu) << 13;
    if ((half.bits & 0x7c00u) == 0x7c00u) return std::bit_cast<float>(bits | 0x7f800000u);
    return std::bit_cast<float>(bits) * 0x1p112f;
}
template <class T>
float to_float32(T value) {
    return static_cast<float>(value);
}

[[noreturn]] void refuse(std::uint64_t row, std::uint64_t column, const char* what) {
    throw std::invalid_argument("row " + std::to_string(row) + ", column " + std::to_string(column) + " is " +
                                what + ": remove or replace it");
}

template <class T>
void read_as(const Matrix& matrix, std::uint64_t row, std::span<float> out) {
    for (std::uint64_t column = 0; column < matrix.columns; ++column) {
        const auto value = file::load<T>(matrix.at(row, column));
        const float converted = to_float32(value);
        if (!finite(converted)) {
            if constexpr (std::is_same_v<T, double>) {
                if (finite(value)) refuse(row, column, "too large for float32");
            }
            refuse(row, column, converted != converted ? "NaN" : "infinite");
        }
        out[column] = converted;
    }
    std::fill(out.begin() + static_cast<std::ptrdiff_t>(matrix.columns), out.end(), 0.0f);
}

}  // namespace

void read_row(const Matrix& matrix, std::uint64_t row, std::span<float> out) {
    constexpr std::array kReaders = {read_as<Half>,         read_as<float>,        read_as<double>,
                                     read_as<std::int8_t>,  read_as<std::uint8_t>, read_as<std::int16_t>,
                                     read_as<std::uint16_t>};
    kReaders[static_cast<std::size_t>(matrix.type)](matrix, row, out);
}

}  // namespace constann
