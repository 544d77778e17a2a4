// See exact.hpp.
#include "exact/exact.hpp"

#include <algorithm>
#include <stdexcept>

#include "kernels/dispatch.hpp"

namespace constann {
namespace {

constexpr std::size_t kTileBytes = 128 * 1024;  // rows that stay in a core's own cache for a group of queries

}  // namespace

std::uint64_t Exact::resolve_effort(std::optional<std::uint64_t> effort) const {
    if (effort) throw std::invalid_argument("an exact index looks at every row: leave effort out");
    return 0;
}

std::unique_ptr<Index::Searcher> Exact::searcher(const SearchPlan& plan) const {
    class Scan final : public Searcher {
      public:
        Scan(const Exact& index, const Filter& filter)
            : index_(index),
              filter_(filter),
              kernels_(kernels::active()),
              tile_(std::max<std::size_t>(kTileBytes / index.rows().stride(), 8)),
              numbers_(tile_),
              rows_(tile_),
              distances_(tile_) {}

        void search(const RowsView& queries, std::span<NearestRows> nearest) override {
            for (std::uint64_t next = 0; next < index_.size();) {
                const std::size_t here = take_tile(next);
                const auto scored = std::span(distances_).first(here);
                for (std::uint64_t query = 0; query < queries.size(); ++query) {
                    distances(kernels_, index_.metric(), queries[query], std::span(rows_).first(here),
                              queries.stride(), scored);
                    for (std::size_t i = 0; i < here; ++i) nearest[query].offer(scored[i], numbers_[i]);
                }
            }
        }

      private:
        // The rows from `next` on that may be returned, as many as a tile holds; moves `next` past them.
        std::size_t take_tile(std::uint64_t& next) {
            std::size_t here = 0;
            for (; next < index_.size() && here < tile_; ++next) {
                const auto row = static_cast<std::uint32_t>(next);
                if (!filter_.allows(row)) continue;
                numbers_[here] = row;
                rows_[here++] = index_.rows()[row];
            }
            return here;
        }

        const Exact& index_;
        const Filter& filter_;
        const kernels::KernelTable& kernels_;
        std::size_t tile_;
        std::vector<std::uint32_t> numbers_;
        std::vector<const std::byte*> rows_;
        std::vector<float> distances_;
    };
    return std::make_unique<Scan>(*this, plan.filter);
}

}  // namespace constann
