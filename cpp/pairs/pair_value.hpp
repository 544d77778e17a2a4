// What a map of pairs keeps for each pair: one small integer or a float32, of one type for all of the map.
// A value is handled as its bits; here is what they mean, and how numbers of a caller's become such bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "pairs/column.hpp"

namespace constann {

// The numbers stand in files.
enum class ValueType : std::uint32_t { int8 = 1, uint8 = 2, int16 = 3, uint16 = 4, int32 = 5, float32 = 6 };

// A value's bytes, the rest zero.
using ValueBits = std::uint32_t;

enum class Update { set, add };

std::size_t width_of(ValueType type);
const char* name_of(ValueType type);
std::optional<ValueType> value_type_named(std::string_view name);

struct IntegerRange {
    std::int64_t least, greatest;
};
IntegerRange range_of(ValueType type);  // of an integer type

std::int64_t integer_of(ValueType type, ValueBits bits);
float float_of(ValueBits bits);

// The value after number `i` was set, or added to what was there; nothing where the type cannot hold that.
// The integer types take integers. A float is never -0. Must run under the canonical floating-point
// environment.
std::optional<ValueBits> updated(ValueType type, Update update, ValueBits before, const Column& numbers,
                                 std::uint64_t i);

}  // namespace constann
