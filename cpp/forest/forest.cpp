// See forest.hpp: settling parameters, building tree by tree, and what of it goes into the file.
#include "forest/forest.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace constann {
namespace {

constexpr std::uint64_t kDefaultTrees = 32;
constexpr std::uint64_t kDefaultRowsPerTree = 100;  // or a leaf's, where that is more

std::uint64_t settled_trees(std::optional<std::uint64_t> trees) {
    const std::uint64_t count = trees.value_or(kDefaultTrees);
    if (count < 1 || count > kMaxTrees) {
        throw std::invalid_argument("trees must be 1 to " + std::to_string(kMaxTrees) + ", not " +
                                    std::to_string(count));
    }
    return count;
}

template <class T, class Allocator>
void append(std::vector<T, Allocator>& all, const std::vector<T, Allocator>& more) {
    all.insert(all.end(), more.begin(), more.end());
}

// Appends one tree, moving its references past the splits and leaves that are there already.
void append_tree(Trees& all, const Trees& tree) {
    const std::uint64_t splits = all.offsets.size();
    const std::uint64_t leaves = all.leaf_bounds.size() - 1;
    if (splits + tree.offsets.size() >= kLeafBit || leaves + tree.leaf_bounds.size() > kLeafBit) {
        throw std::invalid_argument("these trees have over 2147483647 nodes: use fewer trees");
    }
    const auto moved = [&](std::uint32_t child) {
        return child + static_cast<std::uint32_t>(child & kLeafBit ? leaves : splits);
    };
    all.roots.push_back(moved(tree.roots[0]));
    for (const std::uint32_t child : tree.children) all.children.push_back(moved(child));
    append(all.offsets, tree.offsets);
    append(all.planes, tree.planes);
    const std::uint64_t rows = all.leaf_rows.size();
    for (std::size_t i = 1; i < tree.leaf_bounds.size(); ++i)
        all.leaf_bounds.push_back(rows + tree.leaf_bounds[i]);
    append(all.leaf_rows, tree.leaf_rows);
}

template <class Values>
std::span<const std::byte> bytes_of(const Values& values) {
    return std::as_bytes(std::span(values));
}

}  // namespace

std::uint32_t leaf_capacity(Metric metric, std::uint32_t dim) {
    switch (metric) {
        case Metric::cosine:
        case Metric::euclidean:
            return dim + 2;
    }
    return 0;
}

Forest::Forest(std::uint32_t dim, Metric metric, std::optional<std::uint64_t> trees,
               std::optional<std::uint64_t> effort)
    : Index(file::Kind::forest, dim, metric),
      capacity_(leaf_capacity(metric, dim)),
      tree_count_(settled_trees(trees)),
      effort_(effort.value_or(tree_count_ * std::max<std::uint64_t>(capacity_, kDefaultRowsPerTree))) {
    if (effort_ < 1) throw std::invalid_argument("effort must be at least 1");
}

void Forest::build_structure(unsigned threads, const Watch& watch) {
    std::vector<Trees> grown(tree_count_);
    run_tasks(tree_count_, threads, watch, [&](std::uint64_t tree, const StopSignal& stop) {
        grown[tree] = build_tree(metric(), rows(), capacity_, seed(), static_cast<std::uint32_t>(tree), stop);
    });
    Trees all;
    all.leaf_bounds.push_back(0);
    std::size_t plane_floats = 0, leaf_row_count = 0;
    for (const Trees& tree : grown) {
        plane_floats += tree.planes.size();
        leaf_row_count += tree.leaf_rows.size();
    }
    all.planes.reserve(plane_floats);
    all.leaf_rows.reserve(leaf_row_count);
    for (Trees& tree : grown) {
        append_tree(all, tree);
        tree = Trees();
    }
    own_trees_ = std::move(all);
    trees_ = {bytes_of(own_trees_.roots),  bytes_of(own_trees_.children),    bytes_of(own_trees_.offsets),
              bytes_of(own_trees_.planes), bytes_of(own_trees_.leaf_bounds), bytes_of(own_trees_.leaf_rows)};
}

std::unique_ptr<Forest> Forest::open(const file::Header& header, std::span<const std::byte> file,
                                     std::shared_ptr<const void> memory) {
    using file::ParameterTag, file::SectionTag;
    const std::uint64_t trees = file::parameter(header, ParameterTag::trees, 1, kMaxTrees);
    const std::uint64_t effort = file::parameter(header, ParameterTag::effort, 1, UINT64_MAX);
    const std::uint32_t capacity = leaf_capacity(header.metric, header.dim);
    file::parameter(header, ParameterTag::leaf_capacity, capacity, capacity);

    auto index = std::make_unique<Forest>(header.dim, header.metric, trees, effort);
    index->open_rows(header, file, std::move(memory));
    TreesView& view = index->trees_;
    view.roots = file::section(header, file, SectionTag::tree_roots, trees * sizeof(std::uint32_t));
    view.offsets = file::section(header, file, SectionTag::split_offsets);
    const std::uint64_t splits = view.offsets.size() / sizeof(float);
    file::section(header, file, SectionTag::split_offsets, splits * sizeof(float));
    view.children =
        file::section(header, file, SectionTag::split_children, splits * 2 * sizeof(std::uint32_t));
    view.planes = file::section(header, file, SectionTag::split_planes,
                                splits * padded_length(header.dim) * sizeof(float));
    view.leaf_bounds = file::section(header, file, SectionTag::leaf_bounds);
    const std::uint64_t bounds = view.leaf_bounds.size() / sizeof(std::uint64_t);
    file::section(header, file, SectionTag::leaf_bounds,
                  std::max<std::uint64_t>(bounds, 2) * sizeof(std::uint64_t));
    view.leaf_rows = file::section(header, file, SectionTag::leaf_rows);
    return index;
}

std::uint64_t Forest::resolve_effort(std::optional<std::uint64_t> effort) const {
    if (effort && *effort < 1) throw std::invalid_argument("effort must be at least 1");
    return effort.value_or(effort_);
}

std::vector<file::Parameter> Forest::parameters() const {
    using file::ParameterTag;
    return {{ParameterTag::trees, tree_count_},
            {ParameterTag::leaf_capacity, capacity_},
            {ParameterTag::effort, effort_}};
}

std::vector<file::Content> Forest::structure() const {
    using file::SectionTag;
    return {{SectionTag::tree_roots, trees_.roots},        {SectionTag::split_children, trees_.children},
            {SectionTag::split_offsets, trees_.offsets},   {SectionTag::split_planes, trees_.planes},
            {SectionTag::leaf_bounds, trees_.leaf_bounds}, {SectionTag::leaf_rows, trees_.leaf_rows}};
}

}  // namespace constann
