// The walk through all trees at once. It reads trees that may come from a hostile file: every reference is
// checked before it is followed, and no walk visits more nodes than there are.
#include <algorithm>
#include <array>
#include <limits>

#include "core/ordered.hpp"
#include "core/scan.hpp"
#include "file/little_endian.hpp"
#include "forest/forest.hpp"
#include "forest/margin.hpp"
#include "forest/open_nodes.hpp"
#include "kernels/dispatch.hpp"

namespace constann {
namespace {

constexpr std::size_t kCacheLine = 64;

#if defined(CONSTANN_UNCHECKED)  // only to measure what the checks cost: benchmarks/bounds_checks.py
constexpr bool kChecked = false;
#else
constexpr bool kChecked = true;
#endif

void require(bool sound, const char* what) {
    if (kChecked && !sound) file::damaged(what);
}

void prefetch(const std::byte* row, std::size_t bytes) {
    for (std::size_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(row + at);
}

// What a thread's searches use again and again, whatever the index. `seen` is zero between searches.
struct Scratch {
    std::vector<std::uint64_t> seen;  // one bit for each row
    OpenNodes open;
    std::vector<std::uint32_t> candidates;
    std::vector<const std::byte*> addresses;
    std::vector<std::uint32_t> answers;
    std::vector<std::uint64_t> keys;
    Bytes query_codes;         // to compare with rows
    Bytes signed_query_codes;  // to multiply with planes
};

// Nodes taken from the heap at once, where it holds enough: what they point to is fetched together.
constexpr std::size_t kNodesAtOnce = 8;
constexpr std::size_t kOpenForEach = 4;

}  // namespace

class Forest::Walk final : public Index::Searcher {
  public:
    Walk(const Forest& forest, const SearchPlan& plan, Scratch& scratch)
        : forest_(forest),
          filter_(plan.filter),
          effort_(plan.effort),
          k_(std::min<std::uint64_t>(plan.k, filter_.filters() ? filter_.count() : forest.size())),
          rows_(forest.rows()),
          splits_(forest.trees_.splits()),
          leaves_(forest.trees_.leaf_bounds.size() / sizeof(std::uint64_t) - 1),
          leaf_rows_(forest.trees_.leaf_rows.size() / sizeof(std::uint32_t)),
          hamming_(forest.metric() == Metric::hamming),
          coded_(forest.codes_.rows.size() != 0),
          coded_planes_(forest.codes_.planes.size() != 0),
          searched_planes_(coded_planes_ ? forest.codes_.planes
                                         : RowsView(forest.trees_.planes, rows_.stride())),
          kernels_(kernels::active()),
          s_(scratch) {
        s_.seen.resize(std::max<std::size_t>(s_.seen.size(), (rows_.size() + 63) / 64));
    }

    void search(const RowsView& queries, std::span<NearestRows> nearest) override {
        for (std::uint64_t query = 0; query < queries.size(); ++query) {
            const std::byte* here = queries[query];
            if (filter_.filters() && filter_.count() <= effort_) {
                take_all_allowed();
            } else {
                gather(here);
                const std::uint64_t best = reranked_for(forest_.codes_.rerank, k_);
                if (coded_ && s_.candidates.size() > best) keep_best_codes(here, best);
            }
            offer_rows(kernels_, forest_.metric(), here, rows_, s_.candidates, nearest[query]);
        }
    }

    // For each of the 10 nearest candidates of a row: how many candidates have better codes.
    void code_ranks(const std::byte* query, std::vector<std::uint64_t>& ranks) {
        gather(query);
        compare_codes(query);
        NearestRows exact;
        exact.reset(kUsualK);
        std::array<float, 1> distance;
        for (std::size_t i = 0; i < s_.candidates.size(); ++i) {
            const std::array<const std::byte*, 1> row = {rows_[s_.candidates[i]]};
            distances(kernels_, forest_.metric(), query, row, rows_.stride(), distance);
            exact.offer(distance[0], static_cast<std::uint32_t>(i));
        }
        for (const std::uint64_t found : exact.take_sorted()) {
            const std::uint64_t key = s_.keys[static_cast<std::uint32_t>(found)];
            ranks.push_back(static_cast<std::uint64_t>(
                std::ranges::count_if(s_.keys, [&](std::uint64_t other) { return other < key; })));
        }
    }

  private:
    // Makes `seen` zero again, whatever ends the gathering.
    class Unmark {
      public:
        Unmark(Scratch& scratch, const std::size_t& found) : scratch_(scratch), found_(found) {}
        ~Unmark() {
            for (std::size_t i = 0; i < found_; ++i) scratch_.seen[scratch_.candidates[i] / 64] = 0;
        }
        Unmark(const Unmark&) = delete;
        Unmark& operator=(const Unmark&) = delete;

      private:
        Scratch& scratch_;
        const std::size_t& found_;
    };

    // Rows from the most promising nodes of all trees, each once, until they offered as many as the effort
    // asks for, counting a row of several trees each time, and k different ones.
    void gather(const std::byte* query) {
        s_.open.clear();
        splits_seen_ = leaves_seen_ = read_ = gathered_ = 0;
        found_ = 0;
        const Unmark unmark(s_, found_);
        if (coded_planes_) encode_for_planes(query);
        open_roots();
        while (!s_.open.empty() && !enough()) {
            std::array<OpenNodes::Node, kNodesAtOnce> nodes = {};
            const std::size_t wanted =
                std::clamp<std::size_t>(s_.open.size() / kOpenForEach, 1, nodes.size());
            for (std::size_t i = 0; i < wanted; ++i) nodes[i] = take_best();
            visit(std::span(nodes).first(wanted), query);
        }
        s_.candidates.resize(found_);
    }

    bool enough() const { return gathered_ >= effort_ && found_ >= k_; }

    void open_roots() {
        const std::uint64_t roots = forest_.trees_.roots.size() / sizeof(std::uint32_t);
        const float first = hamming_ ? 0.0f : std::numeric_limits<float>::infinity();
        for (std::uint64_t tree = 0; tree < roots; ++tree) {
            s_.open.push(first, file::load<std::uint32_t>(forest_.trees_.roots.data(), tree));
        }
    }

    // Takes it from the open nodes, checks that it exists and fetches what it holds.
    OpenNodes::Node take_best() {
        const OpenNodes::Node best = s_.open.take_best();
        const std::uint32_t node = best.number;
        if (node & kLeafBit) {
            const std::uint64_t leaf = node & ~kLeafBit;
            require(leaf < leaves_, "a child points past the last leaf");
            const auto begin = file::load<std::uint64_t>(forest_.trees_.leaf_bounds.data(), leaf);
            if (begin < leaf_rows_) {
                prefetch(forest_.trees_.leaf_rows.data() + begin * sizeof(std::uint32_t), 3 * kCacheLine);
            }
        } else {
            require(node < splits_, "a child points past the last split");
            if (!hamming_) prefetch(searched_planes_[node], searched_planes_.stride());
        }
        return best;
    }

    void visit(std::span<const OpenNodes::Node> nodes, const std::byte* query) {
        std::array<OpenNodes::Node, kNodesAtOnce> splits = {};
        std::size_t count = 0;
        for (const OpenNodes::Node& node : nodes) {
            if (!(node.number & kLeafBit)) {
                splits[count++] = node;
            } else if (!enough()) {
                take_leaf(node.number & ~kLeafBit);
            }
        }
        follow(std::span(splits).first(count), query);
    }

    void follow(std::span<const OpenNodes::Node> splits, const std::byte* query) {
        require(splits.size() <= splits_ - splits_seen_, "its trees share splits");
        splits_seen_ += splits.size();
        std::array<float, kNodesAtOnce> sides = {};
        if (!hamming_) measure_margins(splits, query, sides);
        for (std::size_t i = 0; i < splits.size(); ++i) {
            const auto [priority, split] = splits[i];
            if (hamming_) {
                follow_bit(priority, split, query);
            } else {
                s_.open.push(std::min(priority, 0.0f - sides[i]), child(split, 0));
                s_.open.push(std::min(priority, sides[i]), child(split, 1));
            }
        }
    }

    void measure_margins(std::span<const OpenNodes::Node> splits, const std::byte* query,
                         std::span<float> sides) {
        std::array<const std::byte*, kNodesAtOnce> planes = {};
        std::array<float, kNodesAtOnce> products = {};
        const std::size_t count = splits.size();
        for (std::size_t i = 0; i < count; ++i) planes[i] = searched_planes_[splits[i].number];
        if (coded_planes_) {
            std::array<std::uint32_t, kNodesAtOnce> answers = {};
            kernels_.code_inner_product(s_.signed_query_codes.data(), planes.data(), count,
                                        searched_planes_.stride(), answers.data());
            for (std::size_t i = 0; i < count; ++i) products[i] = decoded_product(answers[i]);
        } else {
            kernels_.inner_product.many(query, planes.data(), count, searched_planes_.stride(),
                                        products.data());
        }
        for (std::size_t i = 0; i < count; ++i) {
            sides[i] =
                margin(file::load<float>(forest_.trees_.offsets.data(), splits[i].number), products[i]);
        }
    }

    void encode_for_planes(const std::byte* query) {
        s_.signed_query_codes.resize(code_stride(forest_.dim()));
        query_step_ = encode_signed(query, forest_.dim(), s_.signed_query_codes);
        query_sum_ = 0;
        for (const std::byte code : s_.signed_query_codes) query_sum_ += static_cast<signed char>(code);
    }

    // The inner product of query and plane, from that of their codes: what the query's rounding and the
    // plane's leave of it is enough to choose a way by.
    float decoded_product(std::uint32_t answer) const {
        const auto product = static_cast<std::int32_t>(kernels::kCodeProductBase - answer);
        const double scaled =
            static_cast<double>(product) / static_cast<double>(forest_.codes_.plane_scale.rate);
        const double low =
            static_cast<double>(forest_.codes_.plane_scale.low) * static_cast<double>(query_sum_);
        const double sum = scaled + low;
        return static_cast<float>(sum * query_step_);
    }

    void follow_bit(float priority, std::uint32_t split, const std::byte* query) {
        const auto bit = file::load<std::uint32_t>(forest_.trees_.bits.data(), split);
        require(bit == kNoBit || bit / 8 < rows_.stride(), "a split tests a bit that no row has");
        const float differs = priority - 1.0f;
        const bool set = bit != kNoBit && has_bit(query, bit);
        s_.open.push(set ? differs : priority, child(split, 0));
        s_.open.push(set || bit == kNoBit ? priority : differs, child(split, 1));
    }

    std::uint32_t child(std::uint32_t split, std::uint32_t side) const {
        const auto child =
            file::load<std::uint32_t>(forest_.trees_.children.data(), 2 * std::uint64_t{split} + side);
        require((child & kLeafBit) || child > split, "a child does not come after its parent");
        return child;
    }

    void take_leaf(std::uint32_t leaf) {
        ++leaves_seen_;
        require(leaves_seen_ <= leaves_, "its trees share leaves");
        const auto begin = file::load<std::uint64_t>(forest_.trees_.leaf_bounds.data(), leaf);
        const auto end =
            file::load<std::uint64_t>(forest_.trees_.leaf_bounds.data(), std::uint64_t{leaf} + 1);
        require(begin <= end && end <= leaf_rows_, "a leaf lies outside its section");
        // No leaf is met twice, so all together they cannot hold more than the section.
        require(end - begin <= leaf_rows_ - read_, "its leaves overlap");
        read_ += end - begin;
        const std::span<const std::byte> leaf_rows = forest_.trees_.leaf_rows.subspan(
            begin * sizeof(std::uint32_t), (end - begin) * sizeof(std::uint32_t));
        filter_.filters() ? take_rows<true>(leaf_rows) : take_rows<false>(leaf_rows);
    }

    // Each row that is met for the first time becomes a candidate, and what it is first compared by is
    // fetched.
    template <bool kFiltered>
    void take_rows(std::span<const std::byte> leaf_rows) {
        const RowsView& fetched = coded_ ? forest_.codes_.rows : rows_;
        const std::size_t length = std::min<std::size_t>(fetched.stride(), 4 * kCacheLine);
        const std::size_t count = leaf_rows.size() / sizeof(std::uint32_t);
        const std::uint64_t rows = rows_.size();
        if (s_.candidates.size() < found_ + count) s_.candidates.resize(2 * (found_ + count));
        std::uint32_t* const candidates = s_.candidates.data();
        std::uint64_t* const seen = s_.seen.data();
        std::size_t found = found_;
        for (std::size_t i = 0; i < count; ++i) {
            const auto row = file::load<std::uint32_t>(leaf_rows.data(), i);
            if (kChecked && row >= rows) {
                found_ = found;  // what is marked so far is unmarked again
                file::damaged("a leaf names a row that does not exist");
            }
            if constexpr (kFiltered) {
                if (!filter_.allows(row)) continue;
                ++gathered_;
            }
            const std::uint64_t bit = std::uint64_t{1} << (row % 64);
            candidates[found] = row;
            found += (seen[row / 64] & bit) == 0;
            seen[row / 64] |= bit;
            prefetch(fetched[row], length);
        }
        found_ = found;
        if constexpr (!kFiltered) gathered_ += count;
    }

    void take_all_allowed() {
        s_.candidates.clear();
        for (std::uint64_t row = 0; row < rows_.size(); ++row) {
            if (filter_.allows(static_cast<std::uint32_t>(row)))
                s_.candidates.push_back(static_cast<std::uint32_t>(row));
        }
    }

    // Sets keys of (answer, place among the candidates).
    void compare_codes(const std::byte* query) {
        const RowsView& codes = forest_.codes_.rows;
        const std::size_t count = s_.candidates.size();
        s_.query_codes.resize(codes.stride());
        encode_query(forest_.metric(), forest_.codes_.scale, query, forest_.dim(), s_.query_codes);
        s_.addresses.resize(count);
        s_.answers.resize(count);
        s_.keys.resize(count);
        for (std::size_t i = 0; i < count; ++i) s_.addresses[i] = codes[s_.candidates[i]];
        code_kernel(kernels_, forest_.metric())(s_.query_codes.data(), s_.addresses.data(), count,
                                                codes.stride(), s_.answers.data());
        for (std::size_t i = 0; i < count; ++i) {
            s_.keys[i] = (std::uint64_t{s_.answers[i]} << 32) | s_.candidates[i];
        }
    }

    void keep_best_codes(const std::byte* query, std::uint64_t best) {
        compare_codes(query);
        std::nth_element(s_.keys.begin(), s_.keys.begin() + static_cast<std::ptrdiff_t>(best), s_.keys.end());
        s_.candidates.resize(best);
        for (std::size_t i = 0; i < best; ++i) {
            s_.candidates[i] = static_cast<std::uint32_t>(s_.keys[i]);
            prefetch(rows_[s_.candidates[i]], rows_.stride());
        }
    }

    const Forest& forest_;
    const Filter& filter_;
    const std::uint64_t effort_;
    const std::uint64_t k_;  // no more than there are rows to find
    const RowsView& rows_;
    const std::uint64_t splits_;
    const std::uint64_t leaves_;
    const std::uint64_t leaf_rows_;
    const bool hamming_;
    const bool coded_;
    const bool coded_planes_;
    const RowsView searched_planes_;
    double query_step_ = 0;       // of the signed codes
    std::int64_t query_sum_ = 0;  // of the signed codes
    const kernels::KernelTable& kernels_;
    std::uint64_t splits_seen_ = 0;
    std::uint64_t leaves_seen_ = 0;
    std::uint64_t read_ = 0;      // rows of the leaves seen
    std::uint64_t gathered_ = 0;  // those of them that may be returned
    std::size_t found_ = 0;       // different ones of these: so many candidates there are
    Scratch& s_;
};

namespace {

Scratch& scratch_of_this_thread() {
    thread_local Scratch scratch;
    return scratch;
}

}  // namespace

std::unique_ptr<Index::Searcher> Forest::searcher(const SearchPlan& plan) const {
    return std::make_unique<Walk>(*this, plan, scratch_of_this_thread());
}

// Whether the trees are searched as well by their planes' codes as by the planes: the same rows are found, or
// others as near. Tried with rows as queries.
bool Forest::plane_codes_serve(const RowsView& planes) {
    constexpr std::uint64_t kLostAtMost = 500;  // one in so many, net
    const Filter all;
    const SearchPlan plan{kUsualK, effort_, all};
    std::uint64_t found = 0, found_by_codes = 0, sought = 0;
    for_trial_rows([&](const RowsView& query) {
        const std::vector<std::uint64_t> exact = found_keys(plan, query);
        codes_.planes = planes;
        const std::vector<std::uint64_t> coded = found_keys(plan, query);
        codes_.planes = {};
        std::vector<std::uint64_t> either;
        std::ranges::set_union(exact, coded, std::back_inserter(either));
        either.resize(std::min<std::size_t>(either.size(), kUsualK));
        const auto hits = [&](const std::vector<std::uint64_t>& keys) {
            return static_cast<std::uint64_t>(
                std::ranges::count_if(keys, [&](std::uint64_t key) { return key <= either.back(); }));
        };
        found += hits(exact);
        found_by_codes += hits(coded);
        sought += either.size();
    });
    return found_by_codes >= found || (found - found_by_codes) * kLostAtMost <= sought;
}

std::vector<std::uint64_t> Forest::found_keys(const SearchPlan& plan, const RowsView& query) const {
    std::vector<NearestRows> nearest(1);
    nearest[0].reset(plan.k);
    Walk(*this, plan, scratch_of_this_thread()).search(query, nearest);
    return nearest[0].take_sorted();
}

void Forest::for_trial_rows(const std::function<void(const RowsView&)>& trial) const {
    constexpr std::uint64_t kQueries = 64;
    const std::uint64_t queries = std::min(size(), kQueries);
    for (std::uint64_t i = 0; i < queries; ++i) {
        trial(RowsView({rows()[i * size() / queries], rows().stride()}, rows().stride()));
    }
}

// How many rows the codes must leave for the exact comparison, so that hardly any of the true nearest is
// lost; 0 where codes cannot serve. Found by trying, with rows as queries.
std::uint64_t Forest::rerank_needed() const {
    constexpr std::uint64_t kLostAtMost = 500;  // one in so many
    const Filter all;
    Walk walk(*this, {kUsualK, effort_, all}, scratch_of_this_thread());
    std::vector<std::uint64_t> ranks;
    for_trial_rows([&](const RowsView& query) { walk.code_ranks(query[0], ranks); });
    return least_rerank(ranks, {16, 32, 64, 128}, kLostAtMost);
}

}  // namespace constann
