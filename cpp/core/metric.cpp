// See metric.hpp.
#include "core/metric.hpp"

#include <cmath>
#include <limits>

namespace constann {
namespace {

// A sum of squares in float64, in the lane order.
template <class T>
double squared_norm(std::span<const T> vector) {
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
    const double squared = squared_norm(vector);
    if (squared == 0) return false;
    const double norm = std::sqrt(squared);
    for (std::size_t i = 0; i < vector.size(); ++i)
        out[i] = static_cast<float>(static_cast<double>(vector[i]) / norm);
    return true;
}

float cosine_distance(float inner_product) {
    const float distance = 1.0f - inner_product;
    if (distance != distance) return std::numeric_limits<float>::infinity();
    return distance > 0.0f ? distance : 0.0f;
}

float euclidean_distance(float squared) {
    if (squared != squared) return std::numeric_limits<float>::infinity();
    return std::sqrt(squared);
}

}  // namespace

bool normalise(std::span<float> vector) {
    return scale_to_unit(std::span<const float>(vector), vector);
}

bool normalise(std::span<const double> vector, std::span<float> out) {
    return scale_to_unit(vector, out);
}

void make_canonical(Metric metric, std::span<float> row) {
    if (metric == Metric::cosine) normalise(row);
}

void distances(const kernels::KernelTable& kernels, Metric metric, const std::byte* query,
               std::span<const std::byte* const> rows, std::size_t floats, std::span<float> out) {
    switch (metric) {
        case Metric::cosine:
            kernels.inner_product_many(query, rows.data(), rows.size(), floats, out.data());
            for (float& value : out) value = cosine_distance(value);
            return;
        case Metric::euclidean:
            kernels.squared_euclidean_many(query, rows.data(), rows.size(), floats, out.data());
            for (float& value : out) value = euclidean_distance(value);
            return;
    }
}

}  // namespace constann
