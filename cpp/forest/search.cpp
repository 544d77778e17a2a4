// The walk through all trees at once. It reads trees that may come from a hostile file: every reference is
// checked before it is followed, and no walk visits more nodes than there are.
#include <algorithm>
#include <array>
#include <limits>
#include <string>

#include "core/ordered.hpp"
#include "file/little_endian.hpp"
#include "forest/forest.hpp"
#include "forest/margin.hpp"
#include "kernels/dispatch.hpp"

namespace constann {
namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kScoredAtOnce = 64;

[[noreturn]] void damaged(const char* what) {
    throw file::FormatError(std::string("the index is damaged: ") + what);
}

void prefetch(const std::byte* row, std::size_t bytes) {
    for (std::size_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(row + at);
}

// What a thread's searches use again and again, whatever the index. `seen` is zero between searches.
struct Scratch {
    std::vector<std::uint64_t> seen;  // one bit for each row
    std::vector<std::uint64_t> open;  // a heap of (priority, node)
    std::vector<std::uint32_t> candidates;
    std::vector<const std::byte*> addresses;
    std::vector<std::uint32_t> answers;
    std::vector<std::uint64_t> keys;
    Bytes query_codes;
};

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
          planes_(forest.trees_.planes, rows_.stride()),
          hamming_(forest.metric() == Metric::hamming),
          kernels_(kernels::active()),
          s_(scratch) {
        s_.seen.resize(std::max<std::size_t>(s_.seen.size(), (rows_.size() + 63) / 64));
    }

    void search(const RowsView& queries, std::span<NearestRows> nearest) override {
        for (std::uint64_t query = 0; query < queries.size(); ++query) {
            const std::byte* here = queries[query];
            if (filter_.filters() && filter_.count() <= effort_) {
                take_all_allowed();
                score(here, s_.candidates, nearest[query]);
                continue;
            }
            gather(here);
            const std::uint64_t best =
                forest_.codes_.rerank + 2 * (std::max<std::uint64_t>(k_, kUsualK) - kUsualK);
            if (forest_.code_bits() != 0 && s_.candidates.size() > best) keep_best_codes(here, best);
            score(here, s_.candidates, nearest[query]);
        }
    }

    // For each of the 10 nearest candidates of a row: how many candidates have better codes.
    void code_ranks(const std::byte* query, std::vector<std::uint64_t>& ranks) {
        gather(query);
        compare_codes(query);
        std::vector<std::uint64_t> exact(s_.candidates.size());
        std::array<float, 1> distance;
        for (std::size_t i = 0; i < exact.size(); ++i) {
            const std::array<const std::byte*, 1> row = {rows_[s_.candidates[i]]};
            distances(kernels_, forest_.metric(), query, row, rows_.stride(), distance);
            exact[i] = sort_key(distance[0], static_cast<std::uint32_t>(i));
        }
        std::sort(exact.begin(), exact.end());
        for (std::size_t i = 0; i < std::min<std::size_t>(exact.size(), kUsualK); ++i) {
            const std::uint64_t key = s_.keys[static_cast<std::uint32_t>(exact[i])];
            ranks.push_back(static_cast<std::uint64_t>(std::count_if(
                s_.keys.begin(), s_.keys.end(), [&](std::uint64_t other) { return other < key; })));
        }
    }

  private:
    static constexpr std::uint64_t kUsualK = 10;

    // Makes `seen` zero again, whatever ends the gathering.
    class Unmark {
      public:
        explicit Unmark(Scratch& scratch) : scratch_(scratch) {}
        ~Unmark() {
            for (const std::uint32_t row : scratch_.candidates) scratch_.seen[row / 64] = 0;
        }
        Unmark(const Unmark&) = delete;
        Unmark& operator=(const Unmark&) = delete;

      private:
        Scratch& scratch_;
    };

    // Rows from the most promising nodes of all trees, each once, until they offered as many as the effort
    // asks for, counting a row of several trees each time, and k different ones.
    void gather(const std::byte* query) {
        s_.candidates.clear();
        s_.open.clear();
        splits_seen_ = leaves_seen_ = read_ = gathered_ = 0;
        const Unmark unmark(s_);
        start();
        while (!s_.open.empty() && (gathered_ < effort_ || s_.candidates.size() < k_)) {
            std::pop_heap(s_.open.begin(), s_.open.end());
            const std::uint64_t key = s_.open.back();
            s_.open.pop_back();
            descend(key, query);
        }
    }

    void start() {
        const std::uint64_t roots = forest_.trees_.roots.size() / sizeof(std::uint32_t);
        const float first = hamming_ ? 0.0f : std::numeric_limits<float>::infinity();
        for (std::uint64_t tree = 0; tree < roots; ++tree) {
            const auto root = file::load<std::uint32_t>(forest_.trees_.roots.data(), tree);
            if (!hamming_ && !(root & kLeafBit) && root < splits_) prefetch(planes_[root], planes_.stride());
            push(sort_key(first, root));
        }
    }

    void push(std::uint64_t key) {
        s_.open.push_back(key);
        std::push_heap(s_.open.begin(), s_.open.end());
    }

    // Follows the nearer child for as long as nothing else is more promising.
    void descend(std::uint64_t key, const std::byte* query) {
        for (;;) {
            const auto node = static_cast<std::uint32_t>(key);
            if (node & kLeafBit) return take_leaf(node & ~kLeafBit);
            const auto [first, second] =
                children(from_ordered_bits(static_cast<std::uint32_t>(key >> 32)), node, query);
            push(std::min(first, second));
            key = std::max(first, second);
            if (key < s_.open.front()) return push(key);
        }
    }

    struct Children {
        std::uint64_t first, second;
    };

    Children children(float priority, std::uint32_t split, const std::byte* query) {
        if (split >= splits_) damaged("a child points past the last split");
        if (++splits_seen_ > splits_) damaged("its trees share splits");
        float first, second;
        if (hamming_) {
            const auto bit = file::load<std::uint32_t>(forest_.trees_.bits.data(), split);
            if (bit != kNoBit && bit / 8 >= rows_.stride()) damaged("a split tests a bit that no row has");
            const float differs = priority - 1.0f;
            const bool set = bit != kNoBit && has_bit(query, bit);
            first = set ? differs : priority;
            second = set || bit == kNoBit ? priority : differs;
        } else {
            const float product = kernels_.inner_product.one(planes_[split], query, planes_.stride());
            const float side = margin(file::load<float>(forest_.trees_.offsets.data(), split), product);
            first = std::min(priority, 0.0f - side);
            second = std::min(priority, side);
        }
        return {key_of(first, child(split, 0)), key_of(second, child(split, 1))};
    }

    std::uint32_t child(std::uint32_t split, std::uint32_t side) const {
        const auto child =
            file::load<std::uint32_t>(forest_.trees_.children.data(), 2 * std::uint64_t{split} + side);
        if (!(child & kLeafBit) && child <= split) damaged("a child does not come after its parent");
        return child;
    }

    static std::uint64_t key_of(float priority, std::uint32_t node) {
        return sort_key(priority + 0.0f, node);  // + 0 makes a -0 +0
    }

    void take_leaf(std::uint32_t leaf) {
        if (leaf >= leaves_) damaged("a child points past the last leaf");
        if (++leaves_seen_ > leaves_) damaged("its trees share leaves");
        const auto begin = file::load<std::uint64_t>(forest_.trees_.leaf_bounds.data(), leaf);
        const auto end =
            file::load<std::uint64_t>(forest_.trees_.leaf_bounds.data(), std::uint64_t{leaf} + 1);
        if (begin > end || end > leaf_rows_) damaged("a leaf lies outside its section");
        // No leaf is met twice, so all together they cannot hold more than the section.
        if (end - begin > leaf_rows_ - read_) damaged("its leaves overlap");
        read_ += end - begin;
        const RowsView& fetched = forest_.code_bits() != 0 ? forest_.codes_.rows : rows_;
        for (std::uint64_t i = begin; i < end; ++i) {
            const auto row = file::load<std::uint32_t>(forest_.trees_.leaf_rows.data(), i);
            if (row >= rows_.size()) damaged("a leaf names a row that does not exist");
            if (!filter_.allows(row)) continue;
            ++gathered_;
            std::uint64_t& word = s_.seen[row / 64];
            const std::uint64_t bit = std::uint64_t{1} << (row % 64);
            if (word & bit) continue;
            s_.candidates.push_back(row);
            word |= bit;
            prefetch(fetched[row], std::min<std::size_t>(fetched.stride(), 2 * kCacheLine));
        }
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

    void score(const std::byte* query, std::span<const std::uint32_t> candidates, NearestRows& nearest) {
        std::array<const std::byte*, kScoredAtOnce> rows;
        std::array<float, kScoredAtOnce> scored;
        for (std::size_t first = 0; first < candidates.size(); first += kScoredAtOnce) {
            const std::size_t here = std::min(kScoredAtOnce, candidates.size() - first);
            for (std::size_t i = 0; i < here; ++i) rows[i] = rows_[candidates[first + i]];
            distances(kernels_, forest_.metric(), query, std::span(rows).first(here), rows_.stride(),
                      std::span(scored).first(here));
            for (std::size_t i = 0; i < here; ++i) nearest.offer(scored[i], candidates[first + i]);
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
    const RowsView planes_;
    const bool hamming_;
    const kernels::KernelTable& kernels_;
    std::uint64_t splits_seen_ = 0;
    std::uint64_t leaves_seen_ = 0;
    std::uint64_t read_ = 0;      // rows of the leaves seen
    std::uint64_t gathered_ = 0;  // those of them that may be returned
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

// How many rows the codes must leave for the exact comparison, so that hardly any of the true nearest is
// lost; 0 where codes cannot serve. Found by trying, with rows as queries.
std::uint64_t Forest::rerank_needed() const {
    constexpr std::uint64_t kQueries = 64;
    constexpr std::uint64_t kLostAtMost = 500;  // one in so many
    const Filter all;
    Walk walk(*this, {10, effort_, all}, scratch_of_this_thread());
    std::vector<std::uint64_t> ranks;
    const std::uint64_t queries = std::min(size(), kQueries);
    for (std::uint64_t i = 0; i < queries; ++i) walk.code_ranks(rows()[i * size() / queries], ranks);
    for (const std::uint64_t rerank : {16, 32, 64, 128}) {
        const auto lost =
            std::count_if(ranks.begin(), ranks.end(), [&](std::uint64_t rank) { return rank >= rerank; });
        if (static_cast<std::uint64_t>(lost) * kLostAtMost <= ranks.size()) return rerank;
    }
    return 0;
}

}  // namespace constann
