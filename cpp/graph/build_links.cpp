// See build_links.hpp. Each node of a batch looks for its neighbours among those of the batches before and
// prunes what it finds; then their links back are added, target by target, and lists that grew too long are
// pruned again. The lists of the first nodes, as they are when just these are linked, become the upper
// levels.
#include "graph/build_links.hpp"

#include <algorithm>
#include <numeric>
#include <optional>

namespace constann {
namespace {

constexpr std::size_t kPool = 88;            // nearest nodes that a new one chooses among
constexpr std::size_t kUpperPool = 160;      // and one of the upper levels
constexpr std::uint64_t kLargestBatch = 50;  // one in so many of all nodes
constexpr std::uint32_t kRoom = kMaxDegree;  // links of a node while building: pruned to kLinks beyond
constexpr std::uint64_t kNodesPerTask = 64;
constexpr std::uint64_t kTargetsPerTask = 128;
// A neighbour is left out where one that was taken lies nearer to it than the node does, by this much; in
// the upper levels, which must lead out of clusters, where it lies nearer at all.
constexpr std::uint64_t kNearer = 19, kNearerOf = 20;
// By inner products a few long rows lie nearest to all and leave out most others: so many places of a new
// node go to the nearest whatever is taken, and all places of a list that is pruned again. With none searches
// of rows of different lengths take up to several times as long; with all, links to short rows get lost.
constexpr std::size_t kFilled = kLinks / 2;

// What one thread needs for one task.
struct Scratch {
    Walk walk;
    std::vector<std::uint64_t> keys;
    std::vector<std::uint32_t> others, answers;
};

// The links of nodes `begin` to `end`, so many of each as `degree`, to the first kNoNode.
template <class Each>
void for_links(std::span<const std::uint32_t> lists, std::uint64_t degree, std::uint64_t begin,
               std::uint64_t end, const Each& each) {
    for (std::uint64_t source = begin; source < end; ++source) {
        for (std::uint64_t i = source * degree; i < (source + 1) * degree && lists[i] != kNoNode; ++i)
            each(static_cast<std::uint32_t>(source), lists[i]);
    }
}

// Which nodes link to each of the first `nodes`, in their order.
class Sources {
  public:
    void gather(std::span<const std::uint32_t> lists, std::uint64_t degree, std::uint64_t begin,
                std::uint64_t end, std::uint64_t nodes) {
        // Counted two places on and filled in one place on: each list then begins where it must.
        first_.assign(nodes + 2, 0);
        for_links(lists, degree, begin, end,
                  [&](std::uint32_t, std::uint32_t target) { ++first_[std::uint64_t{target} + 2]; });
        std::partial_sum(first_.begin(), first_.end(), first_.begin());
        all_.resize(first_.back());
        for_links(lists, degree, begin, end, [&](std::uint32_t source, std::uint32_t target) {
            all_[first_[std::uint64_t{target} + 1]++] = source;
        });
    }
    std::span<const std::uint32_t> of(std::uint64_t node) const {
        return std::span(all_).subspan(first_[node], first_[node + 1] - first_[node]);
    }

  private:
    std::vector<std::uint64_t> first_;
    std::vector<std::uint32_t> all_;
};

// Makes every node be reached from every other. Links that are added take free places; only where there are
// none, a link that nothing depends on gives way. A node is marked once it is known to be reached from node
// 0, and then to reach node 0.
class Joiner {
  public:
    Joiner(std::span<std::uint32_t> links, std::uint32_t degree, const Measure& measure, std::uint64_t nodes)
        : links_(links), degree_(degree), measure_(measure), nodes_(nodes), needed_(nodes), marked_(nodes) {}

    void join() {
        spread(0);
        for (std::uint32_t node = 0; node < nodes_; ++node) {
            if (marked_[node]) continue;
            put(leader_to(node), node);
            spread(node);
        }
        std::fill(marked_.begin(), marked_.end(), false);
        sources_.gather(links_, degree_, 0, nodes_, nodes_);
        spread_back(0);
        // A node whose links are all needed comes to node 0 by one that it leads to.
        for (bool left = true; left;) {
            left = false;
            for (std::uint32_t node = 0; node < nodes_; ++node) {
                if (marked_[node]) continue;
                if (!has_place(node)) {
                    left = true;
                    continue;
                }
                put(node, nearest(node, [&](std::uint32_t other) { return marked_[other]; }).value_or(0));
                spread_back(node);
            }
        }
    }

  private:
    std::uint32_t& link(std::uint32_t node, std::uint32_t i) {
        return links_[std::uint64_t{node} * degree_ + i];
    }

    // The place for a new link of the node: the first free one, or the last whose link is not needed.
    std::uint32_t place(std::uint32_t node) {
        std::uint32_t found = degree_;
        for (std::uint32_t i = 0; i < degree_; ++i) {
            if (link(node, i) == kNoNode) return i;
            if (!(needed_[node] >> i & 1)) found = i;
        }
        return found;
    }
    bool has_place(std::uint32_t node) { return place(node) < degree_; }
    bool has_free_place(std::uint32_t node) { return link(node, degree_ - 1) == kNoNode; }

    void put(std::uint32_t node, std::uint32_t target) {
        const std::uint32_t at = place(node);
        link(node, at) = target;
        needed_[node] |= std::uint64_t{1} << at;
    }

    void spread(std::uint32_t start) {
        marked_[start] = true;
        queue_.assign(1, start);
        for (std::size_t next = 0; next < queue_.size(); ++next) {
            const std::uint32_t node = queue_[next];
            for (std::uint32_t i = 0; i < degree_ && link(node, i) != kNoNode; ++i) {
                const std::uint32_t target = link(node, i);
                if (marked_[target]) continue;
                marked_[target] = true;
                needed_[node] |= std::uint64_t{1} << i;
                queue_.push_back(target);
            }
        }
    }

    void spread_back(std::uint32_t start) {
        marked_[start] = true;
        queue_.assign(1, start);
        for (std::size_t next = 0; next < queue_.size(); ++next) {
            const std::uint32_t node = queue_[next];
            for (const std::uint32_t source : sources_.of(node)) {
                if (marked_[source]) continue;
                marked_[source] = true;
                for (std::uint32_t at = 0; at < degree_; ++at) {
                    if (link(source, at) == node) needed_[source] |= std::uint64_t{1} << at;
                }
                queue_.push_back(source);
            }
        }
    }

    // Which marked node gets a link to `node`: one near it with a free place, or else any with a free place.
    // Only where all are full does another link give way. By inner products most short rows are reached from
    // nowhere and the same long ones are near all of them, which would lose the links that searches go by.
    std::uint32_t leader_to(std::uint32_t node) {
        const auto free = [&](std::uint32_t other) { return marked_[other] && has_free_place(other); };
        const auto full = [&](std::uint32_t other) { return marked_[other] && has_place(other); };
        if (const auto found = nearest(node, free)) return *found;
        while (first_free_ < nodes_ && !has_free_place(first_free_)) ++first_free_;
        for (std::uint32_t other = first_free_; other < nodes_; ++other) {
            if (free(other)) return other;
        }
        if (const auto found = nearest(node, full)) return *found;
        std::uint32_t first = 0;
        while (!full(first)) ++first;
        return first;
    }

    // The nearest that serves of those that a walk to `node`, which is not marked, finds.
    template <class Serves>
    std::optional<std::uint32_t> nearest(std::uint32_t node, const Serves& serves) {
        descend(walk_, {}, {bytes_of(links_), degree_, nodes_}, measure_, measure_.at(node), {kPool, kPool});
        for (const std::uint64_t key : walk_.keys()) {
            if (serves(node_of(key))) return node_of(key);
        }
        return std::nullopt;
    }

    const std::span<std::uint32_t> links_;
    const std::uint32_t degree_;
    const Measure& measure_;
    const std::uint64_t nodes_;
    std::vector<std::uint64_t> needed_;  // a bit for each link of a node
    std::vector<bool> marked_;
    std::vector<std::uint32_t> queue_;
    Sources sources_;
    std::uint32_t first_free_ = 0;  // no node before it has a free place
    Walk walk_;
};

class Builder {
  public:
    Builder(const Measure& measure, std::uint64_t nodes, unsigned threads, const Watch& watch)
        : measure_(measure),
          nodes_(nodes),
          threads_(threads),
          watch_(watch),
          sizes_(upper_sizes(nodes)),
          lists_(nodes * kRoom, kNoNode) {}

    Links build() {
        std::uint64_t linked = 1;
        std::size_t level = 0;
        links_.upper.resize(upper_link_count(nodes_), kNoNode);  // never moved: levels look at it
        while (linked < nodes_) {
            if (level < sizes_.size() && linked == sizes_[level]) keep_level(linked), ++level;
            const std::uint64_t most = std::max<std::uint64_t>(nodes_ / kLargestBatch, 1);
            std::uint64_t end = std::min(nodes_, linked + std::min(linked, most));
            if (level < sizes_.size()) end = std::min(end, sizes_[level]);
            link_batch(linked, end);
            linked = end;
        }
        links_.lowest.resize(nodes_ * kLinks);
        take_lists(links_.lowest, kLinks, nodes_);
        return std::move(links_);
    }

  private:
    std::span<std::uint32_t> list(std::uint64_t node) {
        return std::span(lists_).subspan(node * kRoom, kRoom);
    }

    static std::size_t length(std::span<const std::uint32_t> list) {
        return static_cast<std::size_t>(std::find(list.begin(), list.end(), kNoNode) - list.begin());
    }

    Watch watch_from(std::uint64_t done_before, std::uint64_t per_task) const {
        if (!watch_) return {};
        return [this, done_before, per_task](std::uint64_t done, std::uint64_t) {
            watch_(std::min(done_before + done * per_task, nodes_ - 1), nodes_);
        };
    }

    void link_batch(std::uint64_t begin, std::uint64_t end) {
        upper_ = !sizes_.empty() && end <= sizes_.back();
        run_some(end - begin, kNodesPerTask, watch_from(begin, kNodesPerTask),
                 [&](std::uint64_t i) { link_node(static_cast<std::uint32_t>(begin + i), begin); });
        link_back(begin, end);
    }

    // Few tasks are not worth their threads.
    template <class Each>
    void run_some(std::uint64_t count, std::uint64_t per_task, const Watch& watch, const Each& each) const {
        const bool few = count <= 3 * per_task;
        run_each(count, per_task, few ? 1 : threads_, few ? Watch{} : watch, each);
    }

    void link_node(std::uint32_t node, std::uint64_t linked) {
        Walk& walk = scratch_of_this_thread<Scratch>().walk;
        const std::size_t pool = upper_ ? kUpperPool : kPool;
        descend(walk, levels_, {bytes_of(lists_), kRoom, linked}, measure_, measure_.at(node),
                {kLeastFirst, pool});
        prune(node, walk.keys(), list(node).first(kLinks), kFilled);
    }

    // Takes of `candidates`, nearest first, at most as many as `out` has places for: those that lie in
    // directions of their own and, for inner products, others until `filled` are taken.
    void prune(std::uint32_t node, std::span<const std::uint64_t> candidates, std::span<std::uint32_t> out,
               std::size_t filled) const {
        std::vector<std::uint32_t>& others = scratch_of_this_thread<Scratch>().others;
        others.clear();
        std::size_t count = 0;
        for (const std::uint64_t key : candidates) {
            if (count == out.size()) break;
            if (!covered(node, key, out.first(count))) {
                out[count++] = node_of(key);
            } else if (products()) {
                others.push_back(node_of(key));
            }
        }
        for (std::size_t i = 0; i < others.size() && count < filled; ++i) out[count++] = others[i];
        std::fill(out.begin() + static_cast<std::ptrdiff_t>(count), out.end(), kNoNode);
    }

    // Whether one that was taken is much nearer to the candidate than the node is.
    bool covered(std::uint32_t node, std::uint64_t key, std::span<const std::uint32_t> taken) const {
        constexpr std::size_t kCompared = 8;
        std::array<std::uint32_t, kCompared> answers;
        const std::uint32_t candidate = node_of(key);
        // As seen from the candidate: the bias is that of the other end.
        std::uint64_t distance = answer_of(key);
        if (!measure_.bias.empty()) distance = distance + measure_.bias[node] - measure_.bias[candidate];
        for (std::size_t first = 0; first < taken.size(); first += kCompared) {
            const auto some = taken.subspan(first, std::min(kCompared, taken.size() - first));
            measure_.compare(measure_.at(candidate), some, answers.data());
            for (std::size_t i = 0; i < some.size(); ++i) {
                if (nearer(answers[i], distance)) return true;
            }
        }
        return false;
    }

    // Whether nodes are compared by inner products, of floats or of codes.
    bool products() const { return measure_.products || !measure_.bias.empty(); }

    bool nearer(std::uint32_t between, std::uint64_t distance) const {
        if (products()) return between < distance;
        const std::uint64_t part = upper_ ? kNearerOf : kNearer;
        if (measure_.codes != nullptr) return between * kNearerOf < distance * part;
        return from_ordered_bits(between) * static_cast<float>(kNearerOf) <
               from_ordered_bits(static_cast<std::uint32_t>(distance)) * static_cast<float>(part);
    }

    void link_back(std::uint64_t begin, std::uint64_t end) {
        sources_.gather(lists_, kRoom, begin, end, begin);
        targets_.clear();
        for (std::uint32_t target = 0; target < begin; ++target) {
            if (!sources_.of(target).empty()) targets_.push_back(target);
        }
        run_some(targets_.size(), kTargetsPerTask, watch_from(end, 0),
                 [&](std::uint64_t i) { add_sources(targets_[i]); });
    }

    void add_sources(std::uint32_t target) {
        const auto links = list(target);
        const std::size_t had = length(links);
        const auto sources = sources_.of(target);
        if (had + sources.size() <= kRoom) {
            std::copy(sources.begin(), sources.end(), links.begin() + static_cast<std::ptrdiff_t>(had));
            return;
        }
        prune(target, sorted_keys(target, links.first(had), sources), links.first(kLinks), kLinks);
        std::fill(links.begin() + kLinks, links.end(), kNoNode);
    }

    // Of one list of nodes and another, as seen from `node`.
    std::span<const std::uint64_t> sorted_keys(std::uint32_t node, std::span<const std::uint32_t> some,
                                               std::span<const std::uint32_t> more) const {
        auto& [walk, keys, others, answers] = scratch_of_this_thread<Scratch>();
        others.assign(some.begin(), some.end());
        others.insert(others.end(), more.begin(), more.end());
        answers.resize(others.size());
        measure_.compare(measure_.at(node), others, answers.data());
        keys.resize(others.size());
        std::ranges::transform(answers, others, keys.begin(), node_key);
        std::ranges::sort(keys);
        return keys;
    }

    // Copies the lists of the first nodes, pruned where they are longer than `degree`.
    void take_lists(std::span<std::uint32_t> out, std::uint32_t degree, std::uint64_t nodes) {
        run_each(nodes, kTargetsPerTask, threads_, watch_from(nodes, 0), [&](std::uint64_t i) {
            const auto node = static_cast<std::uint32_t>(i);
            const auto to = out.subspan(i * degree, degree);
            const auto from = list(node).first(length(list(node)));
            const auto keys = sorted_keys(node, from, {});
            if (from.size() > degree) return prune(node, keys, to, degree);
            std::ranges::fill(to, kNoNode);
            std::ranges::transform(keys, to.begin(), node_of);
        });
    }

    void keep_level(std::uint64_t nodes) {
        const auto level = std::span(links_.upper).subspan(upper_taken_, nodes * kUpperLinks);
        take_lists(level, kUpperLinks, nodes);
        Joiner(level, kUpperLinks, measure_, nodes).join();
        upper_taken_ += level.size();
        levels_.push_back({bytes_of(level), kUpperLinks, nodes});
    }

    const Measure& measure_;
    const std::uint64_t nodes_;
    const unsigned threads_;
    const Watch& watch_;
    const std::vector<std::uint64_t> sizes_;
    bool upper_ = false;  // the batch linked last is of the upper levels: so is a level that is kept after it
    NodeNumbers lists_;
    Sources sources_;                     // of the links of a batch
    std::vector<std::uint32_t> targets_;  // of these
    Links links_;
    std::uint64_t upper_taken_ = 0;
    std::vector<Level> levels_;
};

}  // namespace

void descend(Walk& walk, std::span<const Level> upper, const Level& lowest, const Measure& measure,
             const std::byte* query, const Reach& reach) {
    constexpr std::size_t kEntries = 2;
    std::array<std::uint32_t, kMostFirst> first, answers;
    std::array<std::uint64_t, kMostFirst> keys;
    const std::size_t most = upper.size() > 1 ? kMostFirst : std::clamp(reach.first, kLeastFirst, kMostFirst);
    const std::size_t count = std::min<std::uint64_t>(lowest.nodes, most);
    std::iota(first.begin(), first.end(), 0u);
    measure.compare(query, std::span(first).first(count), answers.data());
    for (std::uint32_t node = 0; node < count; ++node) keys[node] = node_key(answers[node], node);
    const auto looked_at = std::span(keys).first(count);
    auto entries = looked_at.first(std::min(count, kEntries));
    std::partial_sort(looked_at.begin(), entries.end(), looked_at.end());
    for (std::size_t i = 0; i <= upper.size(); ++i) {
        const bool last = i == upper.size();
        const Level& level = last ? lowest : upper[i];
        walk.begin(level.nodes, last ? reach.pool : kEntries);
        for (const std::uint64_t key : entries) walk.enter(key);
        walk.run(level, measure, query, last ? reach.followed : SIZE_MAX);
        if (last) return;
        entries = std::span(keys).first(walk.keys().size());
        std::ranges::copy(walk.keys(), entries.begin());
    }
}

Links build_links(const Measure& measure, std::uint64_t nodes, unsigned threads, const Watch& watch) {
    Links links = Builder(measure, nodes, threads, watch).build();
    Joiner(links.lowest, kLinks, measure, nodes).join();
    if (watch) watch(nodes, nodes);
    return links;
}

}  // namespace constann
