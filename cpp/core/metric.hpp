// The metrics: what a row becomes when it is stored, and how a kernel's answer becomes the distance a caller
// sees.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "core/matrix.hpp"
#include "core/rows.hpp"
#include "kernels/kernel_table.hpp"

namespace constann {

enum class Metric : std::uint32_t { cosine = 1, euclidean = 2, manhattan = 3, dot = 4, hamming = 5 };

const char* name_of(Metric metric);
std::optional<Metric> metric_named(std::string_view name);

// Length in bytes of a stored row: floats padded to whole groups of lanes, or bits to whole 64-bit words.
std::size_t row_stride(Metric metric, std::uint32_t dim);

// Columns of a caller's array: one for each element, or for eight bits.
std::uint64_t columns_of(Metric metric, std::uint32_t dim);

// Scales `vector` to length 1, in place: the squared norm is a float64 sum in the lane order, square root and
// division are float64, and each element is rounded once to float32. A zero vector stays and gives false.
bool normalise(std::span<float> vector);

// The same for float64 input that may lie outside the range of float32.
bool normalise(std::span<const double> vector, std::span<float> out);

// Squared length: a float64 sum in the lane order.
double squared_norm(std::span<const float> vector);

// Reads row `row` of a caller's array into the row as stored and compared: unit length for cosine, packed
// bits for hamming, else as given. Throws std::invalid_argument, which names the row, for bad numbers and for
// bits beyond dim. Call it inside the floating-point guard.
void read_canonical(Metric metric, std::uint32_t dim, const Matrix& matrix, std::uint64_t row,
                    std::span<std::byte> out);

// Distances of one query from several rows. Never -0 and never NaN: where infinities cancel, the distance is
// +inf. For dot it is 0 less the product, so it can be -inf where that overflows.
void distances(const kernels::KernelTable& kernels, Metric metric, const std::byte* query,
               std::span<const std::byte* const> rows, std::size_t bytes, std::span<float> out);

}  // namespace constann
