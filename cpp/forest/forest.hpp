// The forest: random-projection trees after Annoy's model. Each tree halves the rows by hyperplanes until at
// most a leaf's capacity is left; a search walks all trees at once, nearest margin first, and scores what it
// met. Trees have the shape of Annoy's nodes (binary float hyperplanes, leaves of up to its capacity K), so
// that they can be written as such and read from them.
#pragma once

#include "core/index.hpp"

namespace constann {

inline constexpr std::uint32_t kMaxTrees = 65536;

// Where a child or root points: a split's number, or a leaf's with the highest bit set.
inline constexpr std::uint32_t kLeafBit = 0x80000000u;

// The most rows a leaf holds: as many as Annoy's node of this metric has room for.
std::uint32_t leaf_capacity(Metric metric, std::uint32_t dim);

// One tree, or all trees one after another. Splits are numbered from the root down: a child that is a split
// has a higher number than its parent, so that no walk can run in a circle.
struct Trees {
    std::vector<std::uint32_t> roots;
    std::vector<std::uint32_t>
        children;                // two for each split: where the margin is not above 0, and where it is
    std::vector<float> offsets;  // one for each split
    Floats planes;               // one padded row for each split: unit length, or zero for a split by count
    std::vector<std::uint64_t> leaf_bounds;  // leaf i holds leaf_rows from bounds[i] to bounds[i + 1]
    std::vector<std::uint32_t> leaf_rows;
};

// The same trees as bytes: the index's own or a mapped file's. Nothing in them is trusted.
struct TreesView {
    std::span<const std::byte> roots, children, offsets, planes, leaf_bounds, leaf_rows;
};

// Builds tree number `tree` over all rows. Depends on nothing but its arguments. Checks `stop` now and then.
Trees build_tree(Metric metric, const RowsView& rows, std::uint32_t capacity, std::uint64_t seed,
                 std::uint32_t tree, const StopSignal& stop);

class Forest final : public Index {
  public:
    // `effort` is the number of candidates a search gathers by default; both are settled here where not
    // given.
    Forest(std::uint32_t dim, Metric metric, std::optional<std::uint64_t> trees,
           std::optional<std::uint64_t> effort);

    static std::unique_ptr<Forest> open(const file::Header& header, std::span<const std::byte> file,
                                        std::shared_ptr<const void> memory);

    std::uint64_t trees() const { return tree_count_; }
    std::uint64_t effort() const { return effort_; }
    std::uint32_t capacity() const { return capacity_; }

  private:
    class Walk;

    void build_structure(unsigned threads, const Watch& watch) override;
    std::unique_ptr<Searcher> searcher(std::uint64_t effort, std::size_t k) const override;
    std::uint64_t resolve_effort(std::optional<std::uint64_t> effort) const override;
    std::vector<file::Parameter> parameters() const override;
    std::vector<file::Content> structure() const override;

    std::uint32_t capacity_;
    std::uint64_t tree_count_;
    std::uint64_t effort_;
    Trees own_trees_;
    TreesView trees_;
};

}  // namespace constann
