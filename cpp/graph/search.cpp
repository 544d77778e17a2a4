// Searching a graph: the walk, the exact comparison of the best it met, and where it would take longer or
// find too little, a scan of the rows. Nothing that was opened is trusted.
#include <algorithm>
#include <cstring>

#include "core/scan.hpp"
#include "graph/graph.hpp"
#include "kernels/dispatch.hpp"
#include "kernels/floating_point.hpp"

namespace constann {
namespace {

constexpr std::uint64_t kReranked = 4;  // one node in so many followed, or the trial's number
constexpr std::uint64_t kScanned = 8;   // rows that are scanned in the time one node in view takes

bool same_row(const RowsView& rows, std::uint32_t a, std::uint32_t b) {
    return std::memcmp(rows[a], rows[b], rows.stride()) == 0;
}

}  // namespace

class Graph::Search {
  public:
    Search(const Graph& graph, const SearchPlan& plan) : graph_(graph), plan_(plan) {
        const std::uint64_t nodes = graph.nodes();
        const std::uint64_t wanted = std::min(std::max(plan.effort, k_), nodes);
        // Else no effort finds what codes put behind others, which they do more often far from all rows.
        if (graph.form_.bits != 0) best_ = std::max(best_, wanted / kReranked);
        // As many more as are not allowed: too many, where rather all are scanned.
        const double share =
            static_cast<double>(graph.size()) / static_cast<double>(std::max<std::uint64_t>(allowed_, 1));
        const double pool = static_cast<double>(wanted) * share;
        scans_ = pool * static_cast<double>(kScanned) >= static_cast<double>(allowed_);
        if (scans_) return;
        followed_ = std::min(nodes, static_cast<std::uint64_t>(pool));
        // Codes put some of the nearest behind others: more are kept in view than followed.
        const double kept = std::max(pool, static_cast<double>(best_) * share);
        pool_ = kept < static_cast<double>(nodes) ? static_cast<std::uint64_t>(kept) : nodes;
    }

    void search(const RowsView& queries, std::span<NearestRows> nearest) {
        if (scans_) return scan(graph_.metric(), graph_.rows(), filter_, queries, nearest);
        for (std::uint64_t query = 0; query < queries.size(); ++query) {
            const auto one = RowsView({queries[query], queries.stride()}, queries.stride());
            walk(one[0]);
            if (take_candidates()) {
                offer_rows(kernels_, graph_.metric(), one[0], graph_.rows(), s_.candidates, nearest[query]);
            } else {
                scan(graph_.metric(), graph_.rows(), filter_, one, nearest.subspan(query, 1));
            }
        }
    }

  private:
    void walk(const std::byte* query) {
        if (graph_.form_.bits != 0) {
            graph_.form_.encode(graph_.compared_as(), query, graph_.dim(), s_.turned, s_.query_codes);
            query = s_.query_codes.data();
        }
        descend(s_.walk, graph_.upper_, {graph_.links_, kLinks, graph_.nodes()}, measure_, query,
                {followed_, pool_, followed_});
    }

    // The rows of the best nodes. False where there are too few that may be returned: those lie elsewhere.
    bool take_candidates() {
        s_.candidates.clear();
        const std::uint64_t rows = graph_.size();
        std::uint64_t nodes = 0, found = 0, looked_at = 0;
        for (const std::uint64_t key : s_.walk.keys()) {
            const bool enough = nodes >= best_ && found >= k_;
            if (enough && !filter_.filters()) return true;
            const auto [begin, end] = graph_.node_rows_.of(node_of(key));
            looked_at += end - begin;
            if (looked_at > rows) file::damaged("its nodes share rows");
            bool any = false;
            for (std::uint32_t place = begin; place < end; ++place) {
                const std::uint32_t row = graph_.node_rows_.row(place, rows);
                if (!filter_.allows(row)) continue;
                any = true;
                if (enough) break;
                s_.candidates.push_back(row);
                ++found;
                if (!filter_.filters()) place = past_equal(place, end);
            }
            nodes += any;
        }
        // Of few nodes with many equal rows, which count once, there may be enough even so: all were met.
        return s_.candidates.size() >= k_ &&
               (!filter_.filters() || nodes * 2 * graph_.size() >= pool_ * allowed_);
    }

    // Of rows that are equal, and so lie in their order, the first k are enough: the place before the next.
    std::uint32_t past_equal(std::uint32_t place, std::uint32_t end) {
        const std::uint64_t rows = graph_.size();
        const auto row = [&](std::uint64_t at) {
            return graph_.node_rows_.row(static_cast<std::uint32_t>(at), rows);
        };
        const auto equal = [&](std::uint64_t at) { return same_row(graph_.rows(), row(place), row(at)); };
        if (end - place <= k_ || !equal(place + k_)) return place;
        std::uint64_t last = place + k_, beyond = end;
        while (beyond - last > 1) {
            const std::uint64_t middle = last + (beyond - last) / 2;
            (equal(middle) ? last : beyond) = middle;
        }
        for (std::uint64_t at = place + 1; at < place + k_; ++at) s_.candidates.push_back(row(at));
        return static_cast<std::uint32_t>(last);
    }

    // What a thread's searches use again and again, whatever the index.
    struct Scratch {
        Walk walk;
        Bytes query_codes;
        Floats turned;
        std::vector<std::uint32_t> candidates;
    };

    const Graph& graph_;
    const SearchPlan plan_;
    const Filter& filter_ = plan_.filter;
    const std::uint64_t allowed_ = filter_.count_of(graph_.size());       // rows
    const std::uint64_t k_ = std::min<std::uint64_t>(plan_.k, allowed_);  // no more than there are to find
    std::uint64_t best_ = reranked_for(graph_.form_.rerank, k_);          // nodes that are compared exactly
    bool scans_;
    std::uint64_t followed_ = 0, pool_ = 0;  // nodes whose links are, and nodes in view
    const kernels::KernelTable& kernels_ = kernels::active();
    const Measure measure_ = graph_.measure(kernels_);
    Scratch& s_ = scratch_of_this_thread<Scratch>();
};

void Graph::find(const RowsView& queries, const SearchPlan& plan, std::span<NearestRows> nearest) const {
    Search(*this, plan).search(queries, nearest);
}

Measure Graph::measure(const kernels::KernelTable& kernels) const {
    if (form_.bits != 0)
        return {.codes = code_kernel(kernels, compared_as(), form_.bits == 4), .table = codes_};
    const bool products = metric() == Metric::dot;
    const auto floats = products ? kernels.inner_product.many : kernels.squared_euclidean.many;
    return {.floats = floats, .products = products, .table = rows(), .rows = node_rows_};
}

std::uint64_t Graph::hits(const Truth& truth, std::uint64_t effort, unsigned threads) const {
    const Filter all;
    const std::size_t k = truth.nearest[0].size();
    std::vector<std::uint64_t> found(truth.nearest.size());
    run_tasks(found.size(), threads, {}, [&](std::uint64_t i, const StopSignal&) {
        const std::size_t stride = rows().stride();
        std::vector<NearestRows> nearest(1);
        nearest[0].reset(k);
        Search(*this, {k, effort, all})
            .search(RowsView(std::span(truth.queries).subspan(i * stride, stride), stride), nearest);
        // Any row counts that lies no farther than the last of the true ones.
        const std::uint64_t last = truth.nearest[i].back() | 0xffffffffu;
        for (const std::uint64_t key : nearest[0].take_sorted()) found[i] += key <= last;
    });
    std::uint64_t sum = 0;
    for (const std::uint64_t each : found) sum += each;
    return sum;
}

std::uint64_t Graph::settled_effort(const Truth& truth, unsigned threads) const {
    constexpr std::uint64_t kFoundOf = 1000, kFound = 995;
    const std::uint64_t all = truth.nearest.size() * truth.nearest[0].size();
    for (std::uint64_t effort = 16;; effort += effort / 2) {
        if (effort >= 1024 || effort >= size()) return effort;
        if (hits(truth, effort, threads) * kFoundOf >= all * kFound) return effort;
    }
}

std::uint64_t Graph::tune(const Matrix& queries, std::size_t k, double recall, unsigned threads,
                          const Watch& watch) const {
    const std::size_t count = queries.rows * k;
    std::vector<std::int64_t> ids(count);
    std::vector<float> exact(count), found(count);
    search({queries, k, UINT64_MAX, threads}, watch, ids, exact);
    const auto serves = [&](std::uint64_t effort) {
        search({queries, k, effort, threads}, watch, ids, found);
        std::uint64_t hits = 0, sought = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t last = i / k * k + std::min<std::uint64_t>(k, size()) - 1;
            if (i > last) continue;
            ++sought;
            hits += ordered_bits(found[i]) <= ordered_bits(exact[last]);
        }
        bool enough = false;
        kernels::with_canonical_floating_point(
            [&] { enough = static_cast<double>(hits) >= recall * static_cast<double>(sought); });
        return enough;
    };
    std::uint64_t enough = 1, too_little = 0;
    while (!serves(enough)) {
        too_little = enough;
        enough *= 2;
    }
    while (enough - too_little > std::max<std::uint64_t>(enough / 32, 1)) {
        const std::uint64_t middle = too_little + (enough - too_little) / 2;
        (serves(middle) ? enough : too_little) = middle;
    }
    return enough;
}

}  // namespace constann
