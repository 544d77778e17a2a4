// See pair_value.hpp.
#include "pairs/pair_value.hpp"

#include <bit>
#include <limits>

#include "core/ordered.hpp"

namespace constann {
namespace {

struct TypeFacts {
    ValueType type;
    const char* name;
    std::size_t width;
    IntegerRange range;
};

template <class T>
constexpr TypeFacts integer_facts(ValueType type, const char* name) {
    return {type, name, sizeof(T), {std::numeric_limits<T>::min(), std::numeric_limits<T>::max()}};
}

constexpr TypeFacts kTypes[] = {
    integer_facts<std::int8_t>(ValueType::int8, "int8"),
    integer_facts<std::uint8_t>(ValueType::uint8, "uint8"),
    integer_facts<std::int16_t>(ValueType::int16, "int16"),
    integer_facts<std::uint16_t>(ValueType::uint16, "uint16"),
    integer_facts<std::int32_t>(ValueType::int32, "int32"),
    {ValueType::float32, "float32", sizeof(float), {0, 0}},
};

const TypeFacts& facts(ValueType type) {
    return kTypes[static_cast<std::uint32_t>(type) - 1];
}

std::optional<ValueBits> updated_float(Update update, ValueBits before, float number) {
    float value = update == Update::add ? float_of(before) + number : number;
    if (!finite(value)) return std::nullopt;
    if (value == 0.0f) value = 0.0f;
    return std::bit_cast<ValueBits>(value);
}

}  // namespace

std::size_t width_of(ValueType type) {
    return facts(type).width;
}

const char* name_of(ValueType type) {
    return facts(type).name;
}

std::optional<ValueType> value_type_named(std::string_view name) {
    for (const TypeFacts& each : kTypes) {
        if (name == each.name) return each.type;
    }
    return std::nullopt;
}

IntegerRange range_of(ValueType type) {
    return facts(type).range;
}

std::int64_t integer_of(ValueType type, ValueBits bits) {
    switch (type) {
        case ValueType::int8:
            return static_cast<std::int8_t>(bits);
        case ValueType::int16:
            return static_cast<std::int16_t>(bits);
        case ValueType::int32:
            return static_cast<std::int32_t>(bits);
        default:
            return bits;
    }
}

float float_of(ValueBits bits) {
    return std::bit_cast<float>(bits);
}

std::optional<ValueBits> updated(ValueType type, Update update, ValueBits before, const Column& numbers,
                                 std::uint64_t i) {
    if (type == ValueType::float32) return updated_float(update, before, numbers.real(i));
    const std::int64_t number = numbers.integer(i);
    constexpr std::int64_t kFar = std::int64_t{1} << 40;  // beyond all types and differences of their values
    if (number < -kFar || number > kFar) return std::nullopt;
    const std::int64_t value = update == Update::add ? integer_of(type, before) + number : number;
    const IntegerRange range = range_of(type);
    if (value < range.least || value > range.greatest) return std::nullopt;
    const auto mask = static_cast<ValueBits>((std::uint64_t{1} << (8 * width_of(type))) - 1);
    return static_cast<ValueBits>(value) & mask;
}

}  // namespace constann
