// Numbers of a caller's as they lie in memory, one for each pair or one for all: integers of any width,
// float32 or float64, at any stride. They are read a few at a time; no copy of all of them may be made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace constann {

enum class NumberType { int8, uint8, int16, uint16, int32, uint32, int64, uint64, float32, float64 };

class Column {
  public:
    Column(const void* data, NumberType type, std::ptrdiff_t stride, std::uint64_t count)
        : data_(static_cast<const std::byte*>(data)),
          stride_(count == 1 ? 0 : stride),  // the one stands for all
          count_(count),
          type_(type) {}

    std::uint64_t count() const { return count_; }

    // An integer, one beyond int64 as the largest; a float column has none.
    std::int64_t integer(std::uint64_t i) const;

    // Any number as float32, by way of float64. Must run under the canonical floating-point environment.
    float real(std::uint64_t i) const;

    // Integers that are known to be 0 to 2^32 - 1: `out.size()` of them from `first` on.
    void read_ids(std::uint64_t first, std::span<std::uint32_t> out) const;

    // Of the first that is not.
    std::optional<std::uint64_t> first_that_is_no_id() const;

  private:
    template <class T>
    T at(std::uint64_t i) const;

    const std::byte* data_;
    std::ptrdiff_t stride_;
    std::uint64_t count_;
    NumberType type_;
};

}  // namespace constann
