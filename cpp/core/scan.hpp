// Compares queries with every row that may be returned: the exact answer, and what other kinds fall back to
// where so few rows are left that looking for them would take longer.
#pragma once

#include <vector>

#include "core/index.hpp"

namespace constann {

class Scan final : public Index::Searcher {
  public:
    Scan(Metric metric, const RowsView& rows, const Filter& filter);

    void search(const RowsView& queries, std::span<NearestRows> nearest) override;

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

// Compares a query with the rows of these numbers, and offers them.
void offer_rows(const kernels::KernelTable& kernels, Metric metric, const std::byte* query,
                const RowsView& rows, std::span<const std::uint32_t> numbers, NearestRows& nearest);

}  // namespace constann
