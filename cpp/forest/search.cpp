// The walk through all trees at once. It reads trees that may come from a hostile file: every reference is
// checked before it is followed, and no walk visits more nodes than there are.
#include <algorithm>
#include <limits>
#include <string>

#include "core/ordered.hpp"
#include "file/little_endian.hpp"
#include "forest/forest.hpp"
#include "forest/margin.hpp"
#include "kernels/dispatch.hpp"

namespace constann {

class Forest::Walk final : public Index::Searcher {
  public:
    Walk(const Forest& forest, std::uint64_t effort, std::size_t k)
        : forest_(forest),
          effort_(effort),
          k_(std::min<std::uint64_t>(k, forest.size())),
          splits_(forest.trees_.offsets.size() / sizeof(float)),
          leaves_(forest.trees_.leaf_bounds.size() / sizeof(std::uint64_t) - 1),
          leaf_rows_(forest.trees_.leaf_rows.size() / sizeof(std::uint32_t)),
          planes_(forest.trees_.planes, forest.rows().floats()),
          kernels_(kernels::active()) {}

    void search(const RowsView& queries, std::span<NearestRows> nearest) override {
        for (std::uint64_t query = 0; query < queries.size(); ++query) {
            gather(queries[query]);
            score(queries[query], nearest[query]);
        }
    }

  private:
    [[noreturn]] static void damaged(const char* what) {
        throw file::FormatError(std::string("the index is damaged: ") + what + "");
    }

    // Candidates from the most promising nodes of all trees, until there are as many as the effort asks for,
    // and as many different ones as k: trees share most of them.
    void gather(const std::byte* query) {
        start();
        std::uint64_t wanted = effort_;
        for (;;) {
            while (!open_.empty() && gathered_ < wanted) visit(query);
            std::sort(candidates_.begin(), candidates_.end());
            candidates_.erase(std::unique(candidates_.begin(), candidates_.end()), candidates_.end());
            if (open_.empty() || candidates_.size() >= k_) return;
            wanted = gathered_ + (k_ - candidates_.size());
        }
    }

    void start() {
        candidates_.clear();
        open_.clear();
        splits_seen_ = leaves_seen_ = gathered_ = 0;
        const std::uint64_t roots = forest_.trees_.roots.size() / sizeof(std::uint32_t);
        for (std::uint64_t tree = 0; tree < roots; ++tree) {
            push(std::numeric_limits<float>::infinity(),
                 file::load<std::uint32_t>(forest_.trees_.roots.data(), tree));
        }
    }

    void visit(const std::byte* query) {
        std::pop_heap(open_.begin(), open_.end());
        const std::uint64_t key = open_.back();
        open_.pop_back();
        const auto node = static_cast<std::uint32_t>(key);
        if (node & kLeafBit) {
            take_leaf(node & ~kLeafBit);
        } else {
            follow_split(from_ordered_bits(static_cast<std::uint32_t>(key >> 32)), node, query);
        }
    }

    void push(float priority, std::uint32_t node) {
        open_.push_back(sort_key(priority + 0.0f, node));  // + 0 makes a -0 +0
        std::push_heap(open_.begin(), open_.end());
    }

    void take_leaf(std::uint32_t leaf) {
        if (leaf >= leaves_) damaged("a child points past the last leaf");
        if (++leaves_seen_ > leaves_) damaged("its trees share leaves");
        const auto begin = file::load<std::uint64_t>(forest_.trees_.leaf_bounds.data(), leaf);
        const auto end =
            file::load<std::uint64_t>(forest_.trees_.leaf_bounds.data(), std::uint64_t{leaf} + 1);
        if (begin > end || end > leaf_rows_) damaged("a leaf lies outside its section");
        // No leaf is met twice, so all together they cannot hold more than the section.
        if (end - begin > leaf_rows_ - gathered_) damaged("its leaves overlap");
        gathered_ += end - begin;
        for (std::uint64_t i = begin; i < end; ++i) {
            candidates_.push_back(file::load<std::uint32_t>(forest_.trees_.leaf_rows.data(), i));
        }
    }

    void follow_split(float priority, std::uint32_t split, const std::byte* query) {
        if (split >= splits_) damaged("a child points past the last split");
        if (++splits_seen_ > splits_) damaged("its trees share splits");
        const float product = kernels_.inner_product(planes_[split], query, planes_.floats());
        const float side = margin(file::load<float>(forest_.trees_.offsets.data(), split), product);
        for (std::uint32_t i = 0; i < 2; ++i) {
            const auto child =
                file::load<std::uint32_t>(forest_.trees_.children.data(), 2 * std::uint64_t{split} + i);
            if (!(child & kLeafBit) && child <= split) damaged("a child does not come after its parent");
            push(std::min(priority, i == 0 ? 0.0f - side : side), child);
        }
    }

    void score(const std::byte* query, NearestRows& nearest) {
        const RowsView& rows = forest_.rows();
        if (!candidates_.empty() && candidates_.back() >= rows.size())
            damaged("a leaf names a row that does not exist");
        addresses_.resize(candidates_.size());
        distances_.resize(candidates_.size());
        for (std::size_t i = 0; i < candidates_.size(); ++i) addresses_[i] = rows[candidates_[i]];
        distances(kernels_, forest_.metric(), query, addresses_, rows.floats(), distances_);
        for (std::size_t i = 0; i < candidates_.size(); ++i) nearest.offer(distances_[i], candidates_[i]);
    }

    const Forest& forest_;
    const std::uint64_t effort_;
    const std::uint64_t k_;  // no more than there are rows
    const std::uint64_t splits_;
    const std::uint64_t leaves_;
    const std::uint64_t leaf_rows_;
    const RowsView planes_;
    const kernels::KernelTable& kernels_;
    std::uint64_t splits_seen_ = 0;
    std::uint64_t leaves_seen_ = 0;
    std::uint64_t gathered_ = 0;       // rows of the leaves seen, the same row of several trees each time
    std::vector<std::uint64_t> open_;  // a heap of (priority, node)
    std::vector<std::uint32_t> candidates_;
    std::vector<const std::byte*> addresses_;
    std::vector<float> distances_;
};

std::unique_ptr<Index::Searcher> Forest::searcher(std::uint64_t effort, std::size_t k) const {
    return std::make_unique<Walk>(*this, effort, k);
}

}  // namespace constann
