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

// Nodes taken from the heap at once, where it holds enough: what they point to is fetched together.
constexpr std::size_t kNodesAtOnce = 8;
constexpr std::size_t kOpenForEach = 4;

}  // namespace

class Forest::Walk {
  public:
    Walk(const Forest& forest, const SearchPlan& plan) : forest_(forest), plan_(plan) {
        s_.seen.resize(std::max<std::size_t>(s_.seen.size(), (rows_.size() + 63) / 64));
    }

    void search(const RowsView& queries, std::span<NearestRows> nearest) {
        if (filter_.filters() && filter_.count_of(rows_.size()) <= plan_.effort)
            return scan(forest_.metric(), rows_, filter_, queries, nearest);
        for (std::uint64_t query = 0; query < queries.size(); ++query) {
            const std::byte* here = queries[query];
            gather(here);
            const std::uint64_t best = reranked_for(forest_.rerank_, k_);
            const auto rows = coded_ && s_.found > best ? best_by_codes(here, best) : candidates();
            offer_rows(kernels_, forest_.metric(), here, rows_, rows, nearest[query]);
        }
    }

    // For each of the 10 nearest candidates of a row: how many candidates have better codes.
    void code_ranks(const std::byte* query, std::vector<std::uint64_t>& ranks) {
        gather(query);
        compare_codes(query);
        NearestRows exact;
        exact.reset(kUsualK);
        std::array<float, 1> distance;
        for (std::size_t i = 0; i < s_.found; ++i) {
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
    std::span<const std::uint32_t> candidates() const { return std::span(s_.candidates).first(s_.found); }

    // Rows from the most promising nodes of all trees, each once, until they offered as many as the effort
    // asks for, counting a row of several trees each time, and k different ones.
    void gather(const std::byte* query) {
        s_.open.clear();
        for (const std::uint32_t row : candidates()) s_.seen[row / 64] = 0;
        s_.found = 0;
        splits_seen_ = read_ = gathered_ = 0;
        if (coded_planes_) encode_for_planes(query);
        open_roots();
        while (!s_.open.empty() && !enough()) {
            std::array<OpenNodes::Node, kNodesAtOnce> splits = {};
            std::array<std::uint32_t, kNodesAtOnce> leaves = {};
            std::size_t split = 0, leaf = 0;
            for (std::size_t left = std::clamp<std::size_t>(s_.open.size() / kOpenForEach, 1, kNodesAtOnce);
                 left > 0; --left) {
                const OpenNodes::Node best = take_best();
                if (best.number & kLeafBit) {
                    leaves[leaf++] = best.number & ~kLeafBit;
                } else {
                    splits[split++] = best;
                }
            }
            for (std::size_t i = 0; i < leaf && !enough(); ++i) take_leaf(leaves[i]);
            follow(std::span(splits).first(split), query);
        }
    }

    bool enough() const { return gathered_ >= plan_.effort && s_.found >= k_; }

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
            static_cast<double>(product) / static_cast<double>(forest_.plane_codes_.scale.rate);
        const double low =
            static_cast<double>(forest_.plane_codes_.scale.low) * static_cast<double>(query_sum_);
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
        if (s_.candidates.size() < s_.found + count) s_.candidates.resize(2 * (s_.found + count));
        std::uint32_t* const candidates = s_.candidates.data();
        std::uint64_t* const seen = s_.seen.data();
        std::size_t found = s_.found;
        for (std::size_t i = 0; i < count; ++i) {
            const auto row = file::load<std::uint32_t>(leaf_rows.data(), i);
            if (kChecked && row >= rows) {
                s_.found = found;  // what is marked so far is unmarked again
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
        s_.found = found;
        if constexpr (!kFiltered) gathered_ += count;
    }

    // Sets keys of (answer, row).
    void compare_codes(const std::byte* query) {
        const RowsView& codes = forest_.codes_.rows;
        const std::size_t count = s_.found;
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

    std::span<const std::uint32_t> best_by_codes(const std::byte* query, std::uint64_t count) {
        compare_codes(query);
        std::nth_element(s_.keys.begin(), s_.keys.begin() + static_cast<std::ptrdiff_t>(count),
                         s_.keys.end());
        s_.best.resize(count);
        for (std::size_t i = 0; i < count; ++i) {
            s_.best[i] = static_cast<std::uint32_t>(s_.keys[i]);
            prefetch(rows_[s_.best[i]], rows_.stride());
        }
        return s_.best;
    }

    // What a thread's searches use again and again, whatever the index.
    struct Scratch {
        std::vector<std::uint64_t> seen;  // one bit for each row: set for the candidates of the last search
        OpenNodes open;
        std::vector<std::uint32_t> candidates;  // so many as were found, and room for more
        std::size_t found = 0;
        std::vector<std::uint32_t> best;
        std::vector<const std::byte*> addresses;
        std::vector<std::uint32_t> answers;
        std::vector<std::uint64_t> keys;
        Bytes query_codes;         // to compare with rows
        Bytes signed_query_codes;  // to multiply with planes
    };

    const Forest& forest_;
    const SearchPlan plan_;
    Scratch& s_ = scratch_of_this_thread<Scratch>();
    const kernels::KernelTable& kernels_ = kernels::active();
    const RowsView& rows_ = forest_.rows();
    const Filter& filter_ = plan_.filter;
    const std::uint64_t k_ = std::min<std::uint64_t>(plan_.k, filter_.count_of(rows_.size()));
    const std::uint64_t splits_ = forest_.trees_.splits();
    const std::uint64_t leaves_ = forest_.trees_.leaf_bounds.size() / sizeof(std::uint64_t) - 1;
    const std::uint64_t leaf_rows_ = forest_.trees_.leaf_rows.size() / sizeof(std::uint32_t);
    const bool hamming_ = forest_.metric() == Metric::hamming;
    const bool coded_ = forest_.codes_.rows.size() != 0;
    const bool coded_planes_ = forest_.plane_codes_.rows.size() != 0;
    const RowsView searched_planes_ =
        coded_planes_ ? forest_.plane_codes_.rows : RowsView(forest_.trees_.planes, rows_.stride());
    double query_step_ = 0;       // of the signed codes
    std::int64_t query_sum_ = 0;  // of the signed codes
    std::uint64_t splits_seen_ = 0;
    std::uint64_t read_ = 0;      // rows of the leaves seen
    std::uint64_t gathered_ = 0;  // those of them that may be returned
};

void Forest::find(const RowsView& queries, const SearchPlan& plan, std::span<NearestRows> nearest) const {
    Walk(*this, plan).search(queries, nearest);
}

// Whether the trees are searched as well by their planes' codes as by the planes: the same rows are found, or
// others as near. Tried with rows as queries.
bool Forest::plane_codes_serve(CodedRows& planes) {
    constexpr std::uint64_t kLostAtMost = 500;  // one in so many, net
    const Filter all;
    const SearchPlan plan{kUsualK, effort_, all};
    std::uint64_t found = 0, found_by_codes = 0, sought = 0;
    for_trial_rows([&](const RowsView& query) {
        const std::vector<std::uint64_t> exact = found_keys(plan, query);
        std::swap(plane_codes_, planes);
        const std::vector<std::uint64_t> coded = found_keys(plan, query);
        std::swap(plane_codes_, planes);
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
    Walk(*this, plan).search(query, nearest);
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
    Walk walk(*this, {kUsualK, effort_, all});
    std::vector<std::uint64_t> ranks;
    for_trial_rows([&](const RowsView& query) { walk.code_ranks(query[0], ranks); });
    return least_rerank(ranks, {16, 32, 64, 128}, kLostAtMost);
}

}  // namespace constann
