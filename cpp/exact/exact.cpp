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
    return std::make_unique<Scan>(metric(), rows(), plan.filter);
}

}  // namespace constann
