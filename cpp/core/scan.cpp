// See scan.hpp.
#include "core/scan.hpp"

#include <algorithm>
#include <array>

#include "kernels/dispatch.hpp"

namespace constann {
namespace {

constexpr std::size_t kOfferedAtOnce = 64;
constexpr std::size_t kTileBytes = 128 * 1024;  // rows that stay in a core's own cache for a group of queries

}  // namespace

Scan::Scan(Metric metric, const RowsView& rows, const Filter& filter)
    : metric_(metric),
      rows_(rows),
      filter_(filter),
      kernels_(kernels::active()),
      tile_(std::max<std::size_t>(kTileBytes / rows.stride(), 8)),
      numbers_(tile_),
      addresses_(tile_),
      distances_(tile_) {}

void Scan::search(const RowsView& queries, std::span<NearestRows> nearest) {
    for (std::uint64_t next = 0; next < rows_.size();) {
        const std::size_t here = take_tile(next);
        const auto scored = std::span(distances_).first(here);
        for (std::uint64_t query = 0; query < queries.size(); ++query) {
            distances(kernels_, metric_, queries[query], std::span(addresses_).first(here), queries.stride(),
                      scored);
            for (std::size_t i = 0; i < here; ++i) nearest[query].offer(scored[i], numbers_[i]);
        }
    }
}

// The rows from `next` on that may be returned, as many as a tile holds; moves `next` past them.
std::size_t Scan::take_tile(std::uint64_t& next) {
    std::size_t here = 0;
    for (; next < rows_.size() && here < tile_; ++next) {
        const auto row = static_cast<std::uint32_t>(next);
        if (!filter_.allows(row)) continue;
        numbers_[here] = row;
        addresses_[here++] = rows_[row];
    }
    return here;
}

void offer_rows(const kernels::KernelTable& kernels, Metric metric, const std::byte* query,
                const RowsView& rows, std::span<const std::uint32_t> numbers, NearestRows& nearest) {
    std::array<const std::byte*, kOfferedAtOnce> addresses;
    std::array<float, kOfferedAtOnce> scored;
    for (std::size_t first = 0; first < numbers.size(); first += kOfferedAtOnce) {
        const auto here = numbers.subspan(first, std::min(kOfferedAtOnce, numbers.size() - first));
        for (std::size_t i = 0; i < here.size(); ++i) addresses[i] = rows[here[i]];
        distances(kernels, metric, query, std::span(addresses).first(here.size()), rows.stride(),
                  std::span(scored).first(here.size()));
        for (std::size_t i = 0; i < here.size(); ++i) nearest.offer(scored[i], here[i]);
    }
}

}  // namespace constann
