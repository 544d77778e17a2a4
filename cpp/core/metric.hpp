// The metrics: what a row becomes when it is stored, and how a kernel's answer becomes the distance a caller
// sees.
#pragma once

#include <cstdint>
#include <span>

#include "core/rows.hpp"
#include "kernels/kernel_table.hpp"

namespace constann {

enum class Metric : std::uint32_t { cosine = 1, euclidean = 2 };  // 3 manhattan, 4 dot, 5 hamming: to come

// Scales `vector` to length 1, in place: the squared norm is a float64 sum in the lane order, square root and
// division are float64, and each element is rounded once to float32. A zero vector stays and gives false.
bool normalise(std::span<float> vector);

// The same for float64 input that may lie outside the range of float32.
bool normalise(std::span<const double> vector, std::span<float> out);

// Turns a row as given into the row as stored and compared: unit length for cosine, unchanged for euclidean.
void make_canonical(Metric metric, std::span<float> row);

// Distances of one query from several rows. Never -0 and never NaN: where infinities cancel, which only rows
// of a foreign file can bring about, the distance is +inf.
void distances(const kernels::KernelTable& kernels, Metric metric, const std::byte* query,
               std::span<const std::byte* const> rows, std::size_t floats, std::span<float> out);

}  // namespace constann
