// See column.hpp.
#include "pairs/column.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

namespace constann {
namespace {

// Calls `take` with a zero of the type.
template <class Take>
auto with_type(NumberType type, const Take& take) {
    switch (type) {
        case NumberType::int8:
            return take(std::int8_t{});
        case NumberType::uint8:
            return take(std::uint8_t{});
        case NumberType::int16:
            return take(std::int16_t{});
        case NumberType::uint16:
            return take(std::uint16_t{});
        case NumberType::int32:
            return take(std::int32_t{});
        case NumberType::uint32:
            return take(std::uint32_t{});
        case NumberType::uint64:
            return take(std::uint64_t{});
        case NumberType::float32:
            return take(float{});
        case NumberType::float64:
            return take(double{});
        default:
            return take(std::int64_t{});
    }
}

template <class T>
std::int64_t as_integer(T value) {
    constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
    if constexpr (std::is_same_v<T, std::uint64_t>) {
        return static_cast<std::int64_t>(std::min<std::uint64_t>(value, kMost));
    } else if constexpr (std::is_integral_v<T>) {
        return value;
    } else {
        return kMost;
    }
}

}  // namespace

template <class T>
T Column::at(std::uint64_t i) const {
    T value;
    std::memcpy(&value, data_ + static_cast<std::ptrdiff_t>(i) * stride_, sizeof value);
    return value;
}

std::int64_t Column::integer(std::uint64_t i) const {
    return with_type(type_, [&](auto zero) { return as_integer(at<decltype(zero)>(i)); });
}

float Column::real(std::uint64_t i) const {
    return with_type(
        type_, [&](auto zero) { return static_cast<float>(static_cast<double>(at<decltype(zero)>(i))); });
}

void Column::read_ids(std::uint64_t first, std::span<std::uint32_t> out) const {
    with_type(type_, [&](auto zero) {
        for (std::size_t i = 0; i < out.size(); ++i)
            out[i] = static_cast<std::uint32_t>(as_integer(at<decltype(zero)>(first + i)));
    });
}

std::optional<std::uint64_t> Column::first_that_is_no_id() const {
    return with_type(type_, [&](auto zero) -> std::optional<std::uint64_t> {
        using T = decltype(zero);
        if constexpr (std::is_unsigned_v<T> && sizeof(T) <= sizeof(std::uint32_t)) return std::nullopt;
        for (std::uint64_t i = 0; i < count_; ++i) {
            const std::int64_t value = as_integer(at<T>(i));
            if (value < 0 || value > UINT32_MAX) return i;
        }
        return std::nullopt;
    });
}

}  // namespace constann
