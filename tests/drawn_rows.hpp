// Rows for the programs that test and measure the core: drawn, the same everywhere, and as the core sees
// them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/matrix.hpp"
#include "core/metric.hpp"
#include "core/random.hpp"

namespace constann {

inline std::vector<float> drawn_values(std::uint64_t count) {
    Random random(1, 2);
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(random.below(1 << 16)) - 32768.0f;
    return values;
}

// `rows` rows that begin at `values`: floats, or for hamming their bytes.
inline Matrix rows_at(const float* values, Metric metric, std::uint32_t dim, std::uint64_t rows) {
    const bool bits = metric == Metric::hamming;
    const std::uint64_t columns = columns_of(metric, dim);
    const std::ptrdiff_t element = bits ? 1 : sizeof(float);
    return {reinterpret_cast<const std::byte*>(values),
            bits ? ElementType::uint8 : ElementType::float32,
            rows,
            columns,
            static_cast<std::ptrdiff_t>(columns) * element,
            element};
}

}  // namespace constann
