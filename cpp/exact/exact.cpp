// See exact.hpp.
#include "exact/exact.hpp"

#include <stdexcept>

#include "core/scan.hpp"

namespace constann {

std::uint64_t Exact::resolve_effort(std::optional<std::uint64_t> effort) const {
    if (effort) throw std::invalid_argument("an exact index looks at every row: leave effort out");
    return 0;
}

std::unique_ptr<Index::Searcher> Exact::searcher(const SearchPlan& plan) const {
    class Whole final : public Searcher {
      public:
        Whole(const Exact& index, const Filter& filter) : scan_(index.metric(), index.rows(), filter) {}
        void search(const RowsView& queries, std::span<NearestRows> nearest) override {
            scan_.search(queries, nearest);
        }

      private:
        Scan scan_;
    };
    return std::make_unique<Whole>(*this, plan.filter);
}

}  // namespace constann
