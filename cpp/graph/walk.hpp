// The walk through a graph, nearest node first, which building and searching share. Links may come from a
// hostile file: each is checked before it is followed, and no node is met twice.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "core/ordered.hpp"
#include "core/rows.hpp"
#include "file/format.hpp"
#include "file/little_endian.hpp"
#include "kernels/kernel_table.hpp"

namespace constann {

inline constexpr std::uint32_t kNoNode = 0xffffffffu;  // fills a list of links that has room left

// One integer that sorts by the answer, but for its last bit, then by the node; the last bit is free, to say
// that the node's links were followed.
inline std::uint64_t node_key(std::uint32_t answer, std::uint32_t node) {
    return std::uint64_t{answer >> 1} << 33 | std::uint64_t{node} << 1;
}
inline std::uint32_t node_of(std::uint64_t key) {
    return static_cast<std::uint32_t>(key >> 1);
}
inline std::uint32_t answer_of(std::uint64_t key) {
    return static_cast<std::uint32_t>(key >> 33) << 1;
}

// The rows of each node: one, or several that have the same codes. The bounds are empty where all have one.
struct NodeRows {
    std::uint64_t nodes = 0;
    std::span<const std::byte> rows, bounds;

    std::pair<std::uint32_t, std::uint32_t> of(std::uint32_t node) const {
        if (bounds.empty()) return {node, node + 1};
        const auto begin = file::load<std::uint32_t>(bounds.data(), node);
        const auto end = file::load<std::uint32_t>(bounds.data(), std::uint64_t{node} + 1);
        if (begin >= end || end > rows.size() / sizeof(std::uint32_t)) file::damaged("a node has no rows");
        return {begin, end};
    }
    std::uint32_t row(std::uint32_t place, std::uint64_t count) const {
        const auto row = file::load<std::uint32_t>(rows.data(), place);
        if (row >= count) file::damaged("a node names a row that does not exist");
        return row;
    }
};

// How far nodes are from a query while walking, as an unsigned integer that is smaller the nearer a node is:
// by codes, or by the rows themselves where codes cannot serve.
struct Measure {
    kernels::ManyCodes codes = nullptr;  // one of the two
    kernels::ManyRows floats = nullptr;
    bool products = false;  // of floats: the larger the nearer
    RowsView table = {};    // codes of each node, or the rows
    NodeRows rows = {};     // only for floats
    // For dot while building on codes: what makes a squared distance from a fixed node an inner product, as
    // 2 a b = |a|^2 + |b|^2 - |a - b|^2. For each node some constant less its squared length.
    std::span<const std::uint32_t> bias = {};

    const std::byte* at(std::uint32_t node) const {
        return codes != nullptr ? table[node] : table[rows.row(rows.of(node).first, table.size())];
    }

    void compare(const std::byte* query, std::span<const std::uint32_t> nodes, std::uint32_t* answers) const {
        for (std::size_t first = 0; first < nodes.size(); first += kAtOnce)
            compare_some(query, nodes.subspan(first, std::min(kAtOnce, nodes.size() - first)),
                         answers + first);
    }

    void fetch(std::uint32_t node) const {
        const std::byte* row = at(node);
        const std::size_t bytes = std::min<std::size_t>(table.stride(), 512);
        for (std::size_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(row + byte);
    }

  private:
    static constexpr std::size_t kAtOnce = 64;

    void compare_some(const std::byte* query, std::span<const std::uint32_t> nodes,
                      std::uint32_t* answers) const {
        if (nodes.empty()) return;  // never; gcc 12 takes the addresses for uninitialised without it
        std::array<const std::byte*, kAtOnce> addresses;
        for (std::size_t i = 0; i < nodes.size(); ++i) addresses[i] = at(nodes[i]);
        if (codes != nullptr) {
            codes(query, addresses.data(), nodes.size(), table.stride(), answers);
            if (bias.empty()) return;
            for (std::size_t i = 0; i < nodes.size(); ++i) answers[i] += bias[nodes[i]];
            return;
        }
        std::array<float, kAtOnce> scores;
        floats(query, addresses.data(), nodes.size(), table.stride(), scores.data());
        for (std::size_t i = 0; i < nodes.size(); ++i) {
            const float score = products ? 0.0f - scores[i] : scores[i];
            answers[i] = score == score ? ordered_bits(score + 0.0f) : 0xffffffffu;
        }
    }
};

// Nodes 0 to nodes - 1 and for each as many links as `degree`, to the first kNoNode.
struct Level {
    std::span<const std::byte> links;
    std::uint32_t degree;
    std::uint64_t nodes;

    std::uint32_t link(std::uint32_t node, std::uint32_t i) const {
        return file::load<std::uint32_t>(links.data(), std::uint64_t{node} * degree + i);
    }
    void fetch(std::uint32_t node) const {
        const std::byte* list = links.data() + std::uint64_t{node} * degree * sizeof(std::uint32_t);
        __builtin_prefetch(list);
        __builtin_prefetch(list + 64);
    }
};

inline constexpr std::uint32_t kMaxDegree = 40;

class Walk {
    static constexpr std::size_t kTogether = 4;      // nodes whose links are followed at once
    static constexpr std::size_t kFetchedAhead = 2;  // lists of the nodes that may be followed after them

  public:
    // Begins anew, to keep the `pool` nearest nodes it meets.
    void begin(std::uint64_t nodes, std::size_t pool) {
        for (const std::uint32_t node : met_) seen_[node / 64] = 0;
        met_.clear();
        if (seen_.size() < (nodes + 63) / 64) seen_.resize((nodes + 63) / 64);
        room_ = std::max<std::size_t>(pool, 1);
        if (keys_.size() < room_ + 1) keys_.resize(room_ + 1);
        size_ = 0;
    }

    void enter(std::uint64_t key) {
        if (!meet(node_of(key))) return;
        offer(key & ~std::uint64_t{1});
    }

    // Follows links from the nearest node on, until those of the `followed` nearest in the pool were, or of
    // all. Of the nearest of all alone, as what it leads to may lie nearer; of others several at once, so
    // that their links and codes are waited for together.
    void run(const Level& level, const Measure& measure, const std::byte* query,
             std::size_t followed = SIZE_MAX) {
        for (std::size_t next = 0;;) {
            next = choose(level, next, std::min(size_, followed));
            if (chosen_ == 0) return;
            const std::size_t ahead = std::min(size_, next + kFetchedAhead);
            for (std::size_t place = next; place < ahead; ++place) level.fetch(node_of(keys_[place]));
            const std::size_t count = meet_neighbours(level, measure);
            measure.compare(query, std::span(neighbours_).first(count), answers_.data());
            // The nearest of them is followed next, if any is: its links are on their way meanwhile.
            if (count != 0) level.fetch(nearest_neighbour(count));
            for (std::size_t i = 0; i < count; ++i)
                next = std::min(next, offer(node_key(answers_[i], neighbours_[i])));
        }
    }

    // The nearest nodes, in order.
    std::span<const std::uint64_t> keys() const { return std::span(keys_).first(size_); }

  private:
    bool meet(std::uint32_t node) {
        const std::uint64_t bit = std::uint64_t{1} << (node % 64);
        if (seen_[node / 64] & bit) return false;
        met_.push_back(node);
        seen_[node / 64] |= bit;
        return true;
    }

    // Takes the nodes that are followed next, from place `next` on, and returns the place after them.
    std::size_t choose(const Level& level, std::size_t next, std::size_t end) {
        chosen_ = 0;
        for (; next < end && chosen_ < kTogether; ++next) {
            if (keys_[next] & 1) continue;
            keys_[next] |= 1;
            nodes_[chosen_] = node_of(keys_[next]);
            level.fetch(nodes_[chosen_++]);
            if (next == 0) return 1;
        }
        return next;
    }

    std::size_t meet_neighbours(const Level& level, const Measure& measure) {
        std::size_t count = 0;
        for (const std::uint32_t node : std::span(nodes_).first(chosen_)) {
            for (std::uint32_t i = 0; i < level.degree; ++i) {
                const std::uint32_t neighbour = level.link(node, i);
                if (neighbour == kNoNode) break;
                if (neighbour >= level.nodes) file::damaged("a link leads to a node that does not exist");
                if (!meet(neighbour)) continue;
                neighbours_[count++] = neighbour;
                measure.fetch(neighbour);
            }
        }
        return count;
    }

    std::uint32_t nearest_neighbour(std::size_t count) const {
        std::size_t nearest = 0;
        for (std::size_t i = 1; i < count; ++i) nearest = answers_[i] < answers_[nearest] ? i : nearest;
        return neighbours_[nearest];
    }

    // The place it got, or beyond all.
    std::size_t offer(std::uint64_t key) {
        if (size_ == room_) {
            if (key >= keys_[size_ - 1]) return room_;
            --size_;
        }
        const auto begin = keys_.begin();
        // The last bit of a key decides nothing: no node is there twice.
        const auto place = std::upper_bound(begin, begin + static_cast<std::ptrdiff_t>(size_), key) - begin;
        const auto at = static_cast<std::size_t>(place);
        std::memmove(&keys_[at + 1], &keys_[at], (size_ - at) * sizeof key);
        keys_[at] = key;
        ++size_;
        return at;
    }

    std::vector<std::uint64_t> seen_;  // one bit for each node
    std::vector<std::uint32_t> met_;
    std::vector<std::uint64_t> keys_;
    std::size_t size_ = 0, room_ = 0;
    std::size_t chosen_ = 0;
    std::array<std::uint32_t, kTogether> nodes_;
    std::array<std::uint32_t, kTogether * kMaxDegree> neighbours_;
    std::array<std::uint32_t, kTogether * kMaxDegree> answers_;
};

// The upper levels hold the first nodes / 32 nodes, / 1024 and so on, while there are kSmallestLevel of them.
inline constexpr std::uint64_t kSmallestLevel = 64;
inline constexpr std::uint64_t kUpperShare = 32;
// All looked at: as many as links are followed of, within these. The most where there are several levels:
// what is missed on one of them is hardly found on the next, which has 32 times as many nodes of each
// cluster.
inline constexpr std::size_t kLeastFirst = 16, kMostFirst = 64;
static_assert(kMostFirst <= kSmallestLevel);
inline constexpr std::uint32_t kLinks = 32;
inline constexpr std::uint32_t kUpperLinks = 16;

// Their sizes, the smallest first.
inline std::vector<std::uint64_t> upper_sizes(std::uint64_t nodes) {
    std::vector<std::uint64_t> sizes;
    for (nodes /= kUpperShare; nodes >= kSmallestLevel; nodes /= kUpperShare) sizes.push_back(nodes);
    std::reverse(sizes.begin(), sizes.end());
    return sizes;
}

// The links that all of them have together.
inline std::uint64_t upper_link_count(std::uint64_t nodes) {
    std::uint64_t count = 0;
    for (const std::uint64_t size : upper_sizes(nodes)) count += size * kUpperLinks;
    return count;
}

// How far a walk goes on the lowest level: it begins at the best of the `first` nodes, within the bounds
// above, or at what the upper levels lead to, keeps the `pool` nearest, and follows the links of so many.
struct Reach {
    std::size_t first, pool;
    std::size_t followed = SIZE_MAX;
};

// Walks through the upper levels and then the lowest, whose nearest nodes `walk` is left with.
void descend(Walk& walk, std::span<const Level> upper, const Level& lowest, const Measure& measure,
             const std::byte* query, const Reach& reach);

}  // namespace constann
