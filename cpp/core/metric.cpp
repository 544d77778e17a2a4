// See metric.hpp.
#include "core/metric.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

namespace constann {
namespace {

constexpr std::array kNames = {"cosine", "euclidean", "manhattan", "dot", "hamming"};  // from number 1 on

// A sum of squares in float64, in the lane order.
template <class T>
double sum_of_squares(std::span<const T> vector) {
    double lane[kernels::kLanes] = {};
    for (std::size_t i = 0; i < vector.size(); ++i) {
        const double value = vector[i];
        const double square = value * value;
        lane[i % kernels::kLanes] += square;
    }
    for (std::size_t width = kernels::kLanes / 2; width > 0; width /= 2) {
        for (std::size_t l = 0; l < width; ++l) lane[l] += lane[l + width];
    }
    return lane[0];
}

template <class T>
bool scale_to_unit(std::span<const T> vector, std::span<float> out) {
    const double squared = sum_of_squares(vector);
    if (squared == 0) return false;
    const double norm = std::sqrt(squared);
    for (std::size_t i = 0; i < vector.size(); ++i)
        out[i] = static_cast<float>(static_cast<double>(vector[i]) / norm);
    return true;
}

float or_infinity(float distance) {
    return distance == distance ? distance : std::numeric_limits<float>::infinity();
}

void read_bits(std::uint32_t dim, const Matrix& matrix, std::uint64_t row, std::span<std::byte> out) {
    if (matrix.type != ElementType::uint8) throw std::invalid_argument("hamming takes packed uint8 rows");
    std::fill(out.begin(), out.end(), std::byte{0});
    for (std::uint64_t column = 0; column < matrix.columns; ++column) {
        out[column] = *matrix.at(row, column);
    }
    const unsigned left = dim % 8;
    if (left != 0 && (out[dim / 8] & (std::byte{0xff} >> left)) != std::byte{0}) {
        throw std::invalid_argument("row " + std::to_string(row) + " has bits beyond dim " +
                                    std::to_string(dim) + ": they must be 0");
    }
}

}  // namespace

const char* name_of(Metric metric) {
    return kNames[static_cast<std::uint32_t>(metric) - 1];
}

std::optional<Metric> metric_named(std::string_view name) {
    for (std::uint32_t number = 1; number <= kNames.size(); ++number) {
        if (name == kNames[number - 1]) return static_cast<Metric>(number);
    }
    return std::nullopt;
}

std::size_t row_stride(Metric metric, std::uint32_t dim) {
    if (metric == Metric::hamming) return rounded_up(dim, 64) / 8;
    return rounded_up(dim, kernels::kLanes) * sizeof(float);
}

std::uint64_t columns_of(Metric metric, std::uint32_t dim) {
    return metric == Metric::hamming ? (std::uint64_t{dim} + 7) / 8 : dim;
}

bool normalise(std::span<float> vector) {
    return scale_to_unit(std::span<const float>(vector), vector);
}

bool normalise(std::span<const double> vector, std::span<float> out) {
    return scale_to_unit(vector, out);
}

double squared_norm(std::span<const float> vector) {
    return sum_of_squares(vector);
}

void read_canonical(Metric metric, std::uint32_t dim, const Matrix& matrix, std::uint64_t row,
                    std::span<std::byte> out) {
    if (metric == Metric::hamming) return read_bits(dim, matrix, row, out);
    thread_local Floats values;
    values.resize(out.size() / sizeof(float));
    read_row(matrix, row, values);
    if (metric == Metric::cosine) normalise(values);
    std::memcpy(out.data(), values.data(), out.size());
}

void distances(const kernels::KernelTable& kernels, Metric metric, const std::byte* query,
               std::span<const std::byte* const> rows, std::size_t bytes, std::span<float> out) {
    const auto score = [&](const kernels::Kernel& kernel, const auto& distance_of) {
        kernel.many(query, rows.data(), rows.size(), bytes, out.data());
        for (float& value : out) value = distance_of(value);
    };
    switch (metric) {
        case Metric::cosine:
            return score(kernels.inner_product, [](float product) {
                const float distance = or_infinity(1.0f - product);
                return distance > 0.0f ? distance : 0.0f;
            });
        case Metric::euclidean:
            return score(kernels.squared_euclidean,
                         [](float squared) { return or_infinity(std::sqrt(squared)); });
        case Metric::manhattan:
            return score(kernels.manhattan, [](float distance) { return or_infinity(distance); });
        case Metric::dot:
            return score(kernels.inner_product, [](float product) { return or_infinity(0.0f - product); });
        case Metric::hamming:
            return kernels.hamming.many(query, rows.data(), rows.size(), bytes, out.data());
    }
}

}  // namespace constann
