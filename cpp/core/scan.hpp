// Compares queries with every row that may be returned: the exact answer, and what other kinds fall back to
// where so few rows are left that looking for them would take longer.
#pragma once

#include <span>

#include "core/metric.hpp"
#include "core/nearest.hpp"
#include "core/rows.hpp"

namespace constann {

// Offers each query all rows that may be returned, to the set of the same number.
void scan(Metric metric, const RowsView& rows, const Filter& filter, const RowsView& queries,
          std::span<NearestRows> nearest);

// Compares a query with the rows of these numbers, and offers them.
void offer_rows(const kernels::KernelTable& kernels, Metric metric, const std::byte* query,
                const RowsView& rows, std::span<const std::uint32_t> numbers, NearestRows& nearest);

}  // namespace constann
