// Compares queries with every row that may be returned: the exact answer, and what other kinds fall back to
// where so few rows are left that looking for them would take longer.
#pragma once

#include <vector>

#include "core/metric.hpp"
#include "core/nearest.hpp"
#include "core/rows.hpp"

namespace constann {

class Scan {
  public:
    Scan(Metric metric, const RowsView& rows, const Filter& filter);

    // Offers each of `queries` (canonical padded rows) every row, to the set of the same number.
    void search(const RowsView& queries, std::span<NearestRows> nearest);

  private:
    std::size_t take_tile(std::uint64_t& next);

    const Metric metric_;
    const RowsView& rows_;
    const Filter& filter_;
    const kernels::KernelTable& kernels_;
    const std::size_t tile_;
    std::vector<std::uint32_t> numbers_;
    std::vector<const std::byte*> addresses_;
    std::vector<float> distances_;
};

}  // namespace constann
