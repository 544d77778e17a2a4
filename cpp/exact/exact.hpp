// The exact index: every query is compared with every row. The reference for recall, and for every other
// kind.
#pragma once

#include <stdexcept>

#include "core/index.hpp"
#include "core/scan.hpp"

namespace constann {

class Exact final : public Index {
  public:
    Exact(std::uint32_t dim, Metric metric) : Index(file::Kind::exact, dim, metric) {}

  private:
    void open_structure(const file::Header&, std::span<const std::byte>) override {}
    // Nothing to build: the rows are the index.
    void build_structure(unsigned, const Watch& watch) override {
        if (watch) watch(1, 1);
    }
    void find(const RowsView& queries, const SearchPlan& plan,
              std::span<NearestRows> nearest) const override {
        scan(metric(), rows(), plan.filter, queries, nearest);
    }
    std::uint64_t resolve_effort(std::optional<std::uint64_t> effort) const override {
        if (effort) throw std::invalid_argument("an exact index looks at every row: leave effort out");
        return 0;
    }
    std::vector<file::Parameter> parameters() const override { return {}; }
    std::vector<file::Content> structure() const override { return {}; }
};

}  // namespace constann
