// See exact.hpp.
#include "exact/exact.hpp"

#include <algorithm>
#include <stdexcept>

#include "kernels/dispatch.hpp"

namespace constann {
namespace {

constexpr std::size_t kTileBytes = 128 * 1024;  // rows that stay in a core's own cache for a group of queries

}  // namespace

std::unique_ptr<Exact> Exact::open(const file::Header& header, std::span<const std::byte> file,
                                   std::shared_ptr<const void> memory) {
    auto index = std::make_unique<Exact>(header.dim, header.metric);
    index->open_rows(header, file, std::move(memory));
    return index;
}

std::uint64_t Exact::resolve_effort(std::optional<std::uint64_t> effort) const {
    if (effort) throw std::invalid_argument("an exact index looks at every row: leave effort out");
    return 0;
}

std::unique_ptr<Index::Searcher> Exact::searcher(std::uint64_t, std::size_t) const {
    class Scan final : public Searcher {
      public:
        explicit Scan(const Exact& index)
            : index_(index),
              kernels_(kernels::active()),
              tile_(tile_rows(index)),
              rows_(tile_),
              distances_(tile_) {}

        void search(const RowsView& queries, std::span<NearestRows> nearest) override {
            const RowsView& rows = index_.rows();
            for (std::uint64_t first = 0; first < rows.size(); first += tile_) {
                const std::size_t here = std::min<std::uint64_t>(tile_, rows.size() - first);
                for (std::size_t i = 0; i < here; ++i) rows_[i] = rows[first + i];
                for (std::uint64_t query = 0; query < queries.size(); ++query) {
                    const std::span<float> scored = std::span(distances_).first(here);
                    distances(kernels_, index_.metric(), queries[query], std::span(rows_).first(here),
                              rows.floats(), scored);
                    for (std::size_t i = 0; i < here; ++i) {
                        nearest[query].offer(scored[i], static_cast<std::uint32_t>(first + i));
                    }
                }
            }
        }

      private:
        static std::size_t tile_rows(const Exact& index) {
            return std::max<std::size_t>(kTileBytes / (index.rows().floats() * sizeof(float)), 8);
        }

        const Exact& index_;
        const kernels::KernelTable& kernels_;
        std::size_t tile_;
        std::vector<const std::byte*> rows_;
        std::vector<float> distances_;
    };
    return std::make_unique<Scan>(*this);
}

}  // namespace constann
