// See scan.hpp.
#include "core/scan.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "kernels/dispatch.hpp"

namespace constann {
namespace {

constexpr std::size_t kOfferedAtOnce = 64;
constexpr std::size_t kTileBytes = 128 * 1024;  // rows that stay in a core's own cache for a group of queries

}  // namespace

void scan(Metric metric, const RowsView& rows, const Filter& filter, const RowsView& queries,
          std::span<NearestRows> nearest) {
    const kernels::KernelTable& kernels = kernels::active();
    const std::size_t tile = std::max<std::size_t>(kTileBytes / rows.stride(), 8);
    std::vector<std::uint32_t> numbers(tile);
    std::vector<const std::byte*> addresses(tile);
    std::vector<float> scored(tile);
    for (std::uint64_t next = 0; next < rows.size();) {
        std::size_t here = 0;
        for (; next < rows.size() && here < tile; ++next) {
            const auto row = static_cast<std::uint32_t>(next);
            if (!filter.allows(row)) continue;
            numbers[here] = row;
            addresses[here++] = rows[row];
        }
        for (std::uint64_t query = 0; query < queries.size(); ++query) {
            distances(kernels, metric, queries[query], std::span(addresses).first(here), queries.stride(),
                      std::span(scored).first(here));
            for (std::size_t i = 0; i < here; ++i) nearest[query].offer(scored[i], numbers[i]);
        }
    }
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
