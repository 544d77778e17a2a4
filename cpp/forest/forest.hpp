// The forest: random-projection trees after Annoy's model. Each tree halves the rows by hyperplanes until at
// most a leaf's capacity is left; a search walks all trees at once, nearest margin first, and scores what it
// met. Trees have the shape of Annoy's nodes (binary float hyperplanes, leaves of up to its capacity K), so
// that they can be written as such and read from them.
#pragma once

#include <functional>

#include "core/codes.hpp"
#include "core/index.hpp"

namespace constann {

inline constexpr std::uint32_t kMaxTrees = 65536;

// Where a child or root points: a split's number, or a leaf's with the highest bit set.
inline constexpr std::uint32_t kLeafBit = 0x80000000u;

inline constexpr std::uint32_t kNoBit = 0xffffffffu;

// How many rows Annoy's node of this metric has room for.
std::uint32_t annoy_capacity(Metric metric, std::uint32_t dim);

// The most rows a leaf holds when it is built; never more than Annoy's.
std::uint32_t leaf_capacity(Metric metric, std::uint32_t dim);

// One tree, or all trees one after another. Splits are numbered from the root down: a child that is a split
// has a higher number than its parent, so that no walk can run in a circle.
struct Trees {
    std::vector<std::uint32_t> roots;
    std::vector<std::uint32_t>
        children;  // two for each split: where the margin is not above 0, and where it is
    // One for each split. For hamming the number of a bit, or kNoBit for a split by count; otherwise an
    // offset and a plane, padded: unit length (shorter for dot), or zero for a split by count.
    std::vector<std::uint32_t> bits;
    std::vector<float> offsets;
    Floats planes;
    std::vector<std::uint64_t> leaf_bounds;  // leaf i holds leaf_rows from bounds[i] to bounds[i + 1]
    std::vector<std::uint32_t> leaf_rows;
};

// The same trees as bytes: the index's own or a mapped file's. Nothing in them is trusted.
struct TreesView {
    std::span<const std::byte> roots, children, bits, offsets, planes, leaf_bounds, leaf_rows;

    std::uint64_t splits() const { return children.size() / (2 * sizeof(std::uint32_t)); }
};

// What all trees of a forest are built from.
struct TreeSource {
    Metric metric;
    std::uint32_t dim;
    const RowsView& rows;
    std::uint32_t capacity;
    // For dot, one for each row: what makes all rows equally long (see build_tree.cpp). Empty otherwise.
    std::span<const float> lengthening;
    float row_length;  // of all rows alike; for cosine and dot
};
std::vector<float> lengthening_of(Metric metric, const RowsView& rows, float& row_length);

// Builds tree number `tree` over all rows. Depends on nothing but its arguments. Checks `stop` now and then.
Trees build_tree(const TreeSource& source, std::uint64_t seed, std::uint32_t tree, const StopSignal& stop);

class Forest final : public Index {
  public:
    // `effort` is the number of candidates a search gathers by default; `code_bits` 7 compares small integers
    // first, 0 does not. What is not given is settled: code_bits in build(), by trying.
    Forest(std::uint32_t dim, Metric metric, std::optional<std::uint64_t> trees,
           std::optional<std::uint64_t> effort, std::optional<std::uint64_t> code_bits = std::nullopt);

    // Builds with trees from elsewhere over the rows that were added. Their references must be sound.
    void adopt(Trees trees, const Watch& watch);

    // With the parameters of a file, whose structure is still to be opened.
    static std::unique_ptr<Forest> for_file(const file::Header& header);

    std::uint64_t trees() const { return tree_count_; }
    std::uint32_t capacity() const { return capacity_; }
    std::uint64_t code_bits() const { return codes_.rows.size() == 0 ? 0 : kCodeBits; }
    const TreesView& tree_view() const { return trees_; }

    static constexpr std::uint64_t kCodeBits = 7;

  private:
    class Walk;

    void keep(Trees trees);
    void open_codes(const file::Header& header, std::span<const std::byte> file);
    void grow(unsigned threads, const Watch& watch);
    void try_codes(unsigned threads, const Watch& watch);
    void try_plane_codes(unsigned threads, const Watch& watch);
    std::uint64_t rerank_needed() const;
    bool plane_codes_serve(CodedRows& planes);
    std::vector<std::uint64_t> found_keys(const SearchPlan& plan, const RowsView& query) const;
    void for_trial_rows(const std::function<void(const RowsView&)>& trial) const;

    void open_structure(const file::Header& header, std::span<const std::byte> file) override;
    void build_structure(unsigned threads, const Watch& watch) override;
    void find(const RowsView& queries, const SearchPlan& plan, std::span<NearestRows> nearest) const override;
    std::vector<file::Parameter> parameters() const override;
    std::vector<file::Content> structure() const override;

    std::uint32_t capacity_;
    std::uint64_t tree_count_;
    std::optional<std::uint64_t> wanted_code_bits_;
    std::optional<Trees> adopted_;
    Trees own_trees_;
    TreesView trees_;
    CodedRows codes_, plane_codes_;  // the latter only with the former
    std::uint64_t rerank_ = 0;       // how many rows codes leave for the exact comparison
};

}  // namespace constann
