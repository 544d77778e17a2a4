// A rotation that spreads each element over all others, so that a few large ones do not ruin the codes of the
// rest: signs by the seed, then a Walsh-Hadamard transform of the first power of two of elements, and both
// again for the last.
#pragma once

#include <cstdint>
#include <vector>

#include "core/rows.hpp"

namespace constann {

class Rotation {
  public:
    Rotation(std::uint32_t dim, std::uint64_t seed);

    // Writes the turned row to `out`, padded as `row` is.
    void turn(const std::byte* row, std::span<float> out) const;

  private:
    std::uint32_t dim_;
    std::uint32_t block_;  // the largest power of two not above dim
    float scale_ = 1.0f;
    std::vector<float> signs_;  // one for each element of the first block, then of the last
};

}  // namespace constann
