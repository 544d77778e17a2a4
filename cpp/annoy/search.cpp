// The walk through the trees of an Annoy file, in the order in which Annoy itself walks: the same items for
// the same search_k, save where rounding differs. No walk visits more nodes than there are.
#include <algorithm>
#include <cstring>
#include <limits>

#include "annoy/nodes.hpp"
#include "core/ordered.hpp"
#include "file/little_endian.hpp"
#include "forest/margin.hpp"
#include "kernels/dispatch.hpp"

namespace constann::annoy {
class Nodes::Search {
  public:
    Search(const Nodes& nodes, std::span<const std::byte> query)
        : n_(nodes),
          layout_(nodes.layout_),
          kernels_(kernels::active()),
          query_(row_stride(nodes.metric_, nodes.dim_)),
          plane_(query_.size()),
          seen_((nodes.items_ + 63) / 64) {
        std::memcpy(query_.data(), query.data(), query.size());
    }

    // Different items, as many as the trees offer until `search_k` have been met.
    Items gather(std::uint64_t search_k) {
        const float first = n_.metric_ == Metric::hamming ? 0.0f : std::numeric_limits<float>::infinity();
        for (std::uint32_t root = n_.nodes_ - n_.trees_; root < n_.nodes_; ++root) push(first, root);
        while (met_ < search_k && !open_.empty()) {
            std::pop_heap(open_.begin(), open_.end());
            const std::uint64_t key = open_.back();
            open_.pop_back();
            visit(from_ordered_bits(static_cast<std::uint32_t>(key >> 32)), static_cast<std::uint32_t>(key));
        }
        return std::move(found_);
    }

  private:
    void push(float priority, std::uint32_t node) {
        open_.push_back(sort_key(priority + 0.0f, node));
        std::push_heap(open_.begin(), open_.end());
    }

    void visit(float priority, std::uint32_t node) {
        const std::int32_t count = n_.number(node, 0);
        if (count < 0) file::damaged("a node counts less than no items");
        if (count == 1 && node < n_.items_) return meet(static_cast<std::int32_t>(node));
        // Items may be pointed to by many splits; what is no item belongs to one tree.
        if (node >= n_.items_ && ++visited_ > n_.nodes_) file::damaged("its trees share nodes");
        if (static_cast<std::uint32_t>(count) <= layout_.capacity) {
            for (std::int32_t i = 0; i < count; ++i) {
                meet(n_.number(node, layout_.children + static_cast<std::size_t>(i) * sizeof(std::int32_t)));
            }
            return;
        }
        if (node < n_.items_) file::damaged("a split lies among the items");
        follow(priority, node);
    }

    void meet(std::int32_t item) {
        if (item < 0 || static_cast<std::uint32_t>(item) >= n_.items_)
            file::damaged("a node names an item that does not exist");
        ++met_;
        const auto place = static_cast<std::uint32_t>(item);
        std::uint64_t& word = seen_[place / 64];
        const std::uint64_t bit = std::uint64_t{1} << (place % 64);
        if (word & bit) return;
        word |= bit;
        if (n_.number(place, 0) != 1) return;  // a hole
        found_.push_back(item);
        const std::span<const std::byte> vector = n_.vector_of(place);
        for (std::size_t at = 0; at < vector.size(); at += 64) __builtin_prefetch(vector.data() + at);
    }

    void follow(float priority, std::uint32_t node) {
        const auto child = [&](std::size_t i) {
            const std::int32_t other = n_.number(node, layout_.children + i * sizeof(std::int32_t));
            if (other < 0 || static_cast<std::uint32_t>(other) >= n_.nodes_) {
                file::damaged("a split points to a node that does not exist");
            }
            return static_cast<std::uint32_t>(other);
        };
        if (n_.metric_ == Metric::hamming) {
            const bool set = bit(node);
            push(set ? priority : priority - 1.0f, child(1));
            push(set ? priority - 1.0f : priority, child(0));
            return;
        }
        const float side = margin(node);
        push(std::min(priority, side), child(1));
        push(std::min(priority, 0.0f - side), child(0));
    }

    bool bit(std::uint32_t node) const {
        const auto number = file::load<std::uint64_t>(&n_.bytes_[node * layout_.size + layout_.vector]);
        if (number / 8 >= query_.size()) file::damaged("a split tests a bit that no item has");
        const auto word = file::load<std::uint64_t>(query_.data(), number / 64);
        return (word >> (63 - number % 64) & 1) != 0;
    }

    float margin(std::uint32_t node) {
        const std::span<const std::byte> vector = n_.vector_of(node);
        const std::byte* plane = vector.data();
        if (vector.size() != plane_.size()) {
            std::memcpy(plane_.data(), vector.data(), vector.size());
            plane = plane_.data();
        }
        const float product = kernels_.inner_product.one(plane, query_.data(), query_.size());
        return constann::margin(n_.offset_of(node), product);
    }

    const Nodes& n_;
    const Layout& layout_;
    const kernels::KernelTable& kernels_;
    Bytes query_;
    Bytes plane_;
    std::vector<std::uint64_t> seen_;
    std::vector<std::uint64_t> open_;  // a heap of (priority, node)
    Items found_;
    std::uint64_t met_ = 0;
    std::uint64_t visited_ = 0;
};

void Nodes::search(std::span<const std::byte> query, std::size_t n, std::uint64_t search_k, Items& found,
                   std::vector<float>& distances) const {
    if (trees_ == 0) return;
    const Items candidates = Search(*this, query).gather(search_k);
    const std::vector<float> scored = scores(query, candidates);
    std::vector<std::uint64_t> keys(candidates.size());
    for (std::size_t i = 0; i < keys.size(); ++i) {
        keys[i] = sort_key(scored[i] + 0.0f, static_cast<std::uint32_t>(candidates[i]));
    }
    const std::size_t best = std::min(n, keys.size());
    std::partial_sort(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(best), keys.end());
    for (std::size_t i = 0; i < best; ++i) {
        found.push_back(static_cast<std::int32_t>(keys[i] & 0xffffffffu));
        const float distance = from_ordered_bits(static_cast<std::uint32_t>(keys[i] >> 32));
        distances.push_back(metric_ == Metric::dot ? 0.0f - distance : distance);
    }
}

}  // namespace constann::annoy
