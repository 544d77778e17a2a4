// See forest.hpp: settling parameters, building tree by tree, and what of it goes into the file.
#include "forest/forest.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/floating_point.hpp"

namespace constann {
namespace {

constexpr std::uint64_t kDefaultTrees = 32;
constexpr std::uint64_t kDefaultRowsPerTree = 100;  // or a leaf's, where that is more
constexpr std::uint64_t kRowsWorthCoding = 1024;
constexpr std::uint64_t kMaxRerank = 1 << 20;

std::uint64_t settled_trees(std::optional<std::uint64_t> trees) {
    const std::uint64_t count = trees.value_or(kDefaultTrees);
    if (count < 1 || count > kMaxTrees) {
        throw std::invalid_argument("trees must be 1 to " + std::to_string(kMaxTrees) + ", not " +
                                    std::to_string(count));
    }
    return count;
}

// Appends one tree, moving its references past the splits and leaves that are there already.
void append_tree(Trees& all, const Trees& tree) {
    const std::uint64_t splits = all.children.size() / 2;
    const std::uint64_t leaves = all.leaf_bounds.size() - 1;
    if (splits + tree.children.size() / 2 >= kLeafBit || leaves + tree.leaf_bounds.size() > kLeafBit) {
        throw std::invalid_argument("these trees have over 2147483647 nodes: use fewer trees");
    }
    const auto moved = [&](std::uint32_t child) {
        return child + static_cast<std::uint32_t>(child & kLeafBit ? leaves : splits);
    };
    all.roots.push_back(moved(tree.roots[0]));
    for (const std::uint32_t child : tree.children) all.children.push_back(moved(child));
    all.bits.insert(all.bits.end(), tree.bits.begin(), tree.bits.end());
    all.offsets.insert(all.offsets.end(), tree.offsets.begin(), tree.offsets.end());
    all.planes.insert(all.planes.end(), tree.planes.begin(), tree.planes.end());
    const std::uint64_t rows = all.leaf_rows.size();
    for (std::size_t i = 1; i < tree.leaf_bounds.size(); ++i)
        all.leaf_bounds.push_back(rows + tree.leaf_bounds[i]);
    all.leaf_rows.insert(all.leaf_rows.end(), tree.leaf_rows.begin(), tree.leaf_rows.end());
}

// Room for `count` trees like these: an estimate, as memory that is not written yet costs nothing.
void reserve_for(Trees& all, const std::vector<Trees>& grown, std::uint64_t count) {
    std::size_t planes = 0, rows = 0;
    for (const Trees& tree : grown) {
        planes += tree.planes.size();
        rows += tree.leaf_rows.size();
    }
    all.planes.reserve(planes / grown.size() * count / 8 * 9);
    all.leaf_rows.reserve(rows / grown.size() * count);
}

}  // namespace

std::uint32_t annoy_capacity(Metric metric, std::uint32_t dim) {
    if (metric == Metric::hamming) return 3 + 2 * ((dim + 63) / 64);
    return dim + (metric == Metric::dot ? 3 : 2);
}

std::uint32_t leaf_capacity(Metric metric, std::uint32_t dim) {
    // Smaller leaves find more at the same effort, and take longer to build: two thirds cost no more than
    // Annoy does.
    constexpr std::uint32_t kSmall = 32;
    const std::uint32_t most = annoy_capacity(metric, dim);
    return most <= kSmall ? most : std::max(kSmall, most / 3 * 2);
}

Forest::Forest(std::uint32_t dim, Metric metric, std::optional<std::uint64_t> trees,
               std::optional<std::uint64_t> effort, std::optional<std::uint64_t> code_bits)
    : Index(file::Kind::forest, dim, metric),
      capacity_(leaf_capacity(metric, dim)),
      tree_count_(settled_trees(trees)),
      wanted_code_bits_(code_bits) {
    effort_ = effort_or(tree_count_ * std::max<std::uint64_t>(capacity_, kDefaultRowsPerTree), effort);
    if (code_bits && *code_bits != 0 && *code_bits != kCodeBits)
        throw std::invalid_argument("code_bits must be 0 or 7, not " + std::to_string(*code_bits));
    if (code_bits == kCodeBits && metric == Metric::hamming)
        throw std::invalid_argument("hamming compares bits already: leave code_bits out");
}

void Forest::build_structure(unsigned threads, const Watch& watch) {
    if (adopted_) {
        keep(std::move(*adopted_));
        adopted_.reset();
    } else {
        grow(threads, watch);
    }
    const std::uint64_t least = wanted_code_bits_ == kCodeBits ? 1 : kRowsWorthCoding;
    if (metric() == Metric::hamming || wanted_code_bits_ == 0 || size() < least) return;
    // Nothing more to tell, but Ctrl-C is heeded.
    const Watch grown =
        watch ? [&](std::uint64_t, std::uint64_t) { watch(tree_count_, tree_count_); } : Watch{};
    try_codes(threads, grown);
    if (code_bits() != 0) try_plane_codes(threads, grown);
}

void Forest::grow(unsigned threads, const Watch& watch) {
    std::vector<float> lengthening;
    float row_length = 1.0f;
    kernels::with_canonical_floating_point(
        [&] { lengthening = lengthening_of(metric(), rows(), row_length); });
    const TreeSource source{metric(), dim(), rows(), capacity_, lengthening, row_length};
    Trees all;
    all.leaf_bounds.push_back(0);
    // So few at a time that what has grown and is not appended yet takes little memory.
    const std::uint64_t at_once = 2 * std::uint64_t{std::max(threads, 1u)};
    for (std::uint64_t first = 0; first < tree_count_; first += at_once) {
        std::vector<Trees> grown(std::min(at_once, tree_count_ - first));
        const Watch watch_all =
            watch ? [&](std::uint64_t done, std::uint64_t) { watch(first + done, tree_count_); } : Watch{};
        run_tasks(grown.size(), threads, watch_all, [&](std::uint64_t i, const StopSignal& stop) {
            grown[i] = build_tree(source, seed(), static_cast<std::uint32_t>(first + i), stop);
        });
        if (first == 0) reserve_for(all, grown, tree_count_);
        for (Trees& tree : grown) append_tree(all, std::exchange(tree, {}));
    }
    keep(std::move(all));
}

void Forest::adopt(Trees trees, const Watch& watch) {
    capacity_ = annoy_capacity(metric(), dim());
    adopted_ = std::move(trees);
    build(1, 0, watch);
}

void Forest::keep(Trees trees) {
    own_trees_ = std::move(trees);
    trees_ = {bytes_of(own_trees_.roots),    bytes_of(own_trees_.children), bytes_of(own_trees_.bits),
              bytes_of(own_trees_.offsets),  bytes_of(own_trees_.planes),   bytes_of(own_trees_.leaf_bounds),
              bytes_of(own_trees_.leaf_rows)};
}

void Forest::try_codes(unsigned threads, const Watch& watch) {
    codes_ = encode_rows(rows(), dim(), threads, watch);
    if (code_bits() == 0) return;
    kernels::with_canonical_floating_point([&] { rerank_ = rerank_needed(); });
    if (rerank_ == 0) codes_ = {};
}

void Forest::try_plane_codes(unsigned threads, const Watch& watch) {
    CodedRows planes = encode_rows(RowsView(trees_.planes, rows().stride()), dim(), threads, watch);
    if (planes.rows.size() == 0) return;
    bool serve = false;
    kernels::with_canonical_floating_point([&] { serve = plane_codes_serve(planes); });
    if (serve) plane_codes_ = std::move(planes);
}

std::unique_ptr<Forest> Forest::for_file(const file::Header& header) {
    using file::ParameterTag;
    const std::uint64_t trees = file::parameter(header, ParameterTag::trees, 1, kMaxTrees);
    const std::uint64_t effort = file::parameter(header, ParameterTag::effort, 1, UINT64_MAX);
    const std::uint64_t capacity =
        file::parameter(header, ParameterTag::leaf_capacity, 1, annoy_capacity(header.metric, header.dim));
    auto index = std::make_unique<Forest>(header.dim, header.metric, trees, effort);
    index->capacity_ = static_cast<std::uint32_t>(capacity);
    return index;
}

void Forest::open_structure(const file::Header& header, std::span<const std::byte> file) {
    using file::SectionTag;
    TreesView view;
    view.roots = file::section(header, file, SectionTag::tree_roots, tree_count_ * sizeof(std::uint32_t));
    view.children = file::section(header, file, SectionTag::split_children);
    const std::uint64_t splits = view.splits();
    file::section(header, file, SectionTag::split_children, splits * 2 * sizeof(std::uint32_t));
    if (header.metric == Metric::hamming) {
        view.bits = file::section(header, file, SectionTag::split_bits, splits * sizeof(std::uint32_t));
    } else {
        view.offsets = file::section(header, file, SectionTag::split_offsets, splits * sizeof(float));
        view.planes = file::section(header, file, SectionTag::split_planes,
                                    splits * row_stride(header.metric, header.dim));
    }
    view.leaf_bounds = file::section(header, file, SectionTag::leaf_bounds);
    const std::uint64_t bounds = view.leaf_bounds.size() / sizeof(std::uint64_t);
    file::section(header, file, SectionTag::leaf_bounds,
                  std::max<std::uint64_t>(bounds, 2) * sizeof(std::uint64_t));
    view.leaf_rows = file::section(header, file, SectionTag::leaf_rows);
    trees_ = view;
    codes_ = {};
    plane_codes_ = {};
    const std::uint64_t most = header.metric == Metric::hamming ? 0 : kCodeBits;
    if (file::code_bits(header, file::ParameterTag::code_bits, {0, most}) != 0) open_codes(header, file);
    own_trees_ = {};
}

void Forest::open_codes(const file::Header& header, std::span<const std::byte> file) {
    using file::ParameterTag;
    codes_.scale = {file::float_parameter(header, ParameterTag::code_low),
                    file::float_parameter(header, ParameterTag::code_rate)};
    rerank_ = file::parameter(header, ParameterTag::rerank, 1, kMaxRerank);
    const std::size_t stride = code_stride(header.dim);
    codes_.rows =
        RowsView(file::section(header, file, file::SectionTag::codes, header.rows * stride), stride);
    if (file::code_bits(header, ParameterTag::plane_code_bits, {0, kCodeBits}) == 0) return;
    plane_codes_.scale = {file::float_parameter(header, ParameterTag::plane_code_low),
                          file::float_parameter(header, ParameterTag::plane_code_rate)};
    plane_codes_.rows = RowsView(
        file::section(header, file, file::SectionTag::plane_codes, trees_.splits() * stride), stride);
}

std::vector<file::Parameter> Forest::parameters() const {
    using file::ParameterTag;
    std::vector<file::Parameter> all = {{ParameterTag::trees, tree_count_},
                                        {ParameterTag::leaf_capacity, capacity_},
                                        {ParameterTag::effort, effort_},
                                        {ParameterTag::code_bits, code_bits()}};
    if (code_bits() != 0) {
        all.push_back({ParameterTag::code_low, std::bit_cast<std::uint32_t>(codes_.scale.low)});
        all.push_back({ParameterTag::code_rate, std::bit_cast<std::uint32_t>(codes_.scale.rate)});
        all.push_back({ParameterTag::rerank, rerank_});
        const bool planes = plane_codes_.rows.size() != 0;
        all.push_back({ParameterTag::plane_code_bits, planes ? kCodeBits : 0});
        if (planes) {
            all.push_back(
                {ParameterTag::plane_code_low, std::bit_cast<std::uint32_t>(plane_codes_.scale.low)});
            all.push_back(
                {ParameterTag::plane_code_rate, std::bit_cast<std::uint32_t>(plane_codes_.scale.rate)});
        }
    }
    return all;
}

std::vector<file::Content> Forest::structure() const {
    using file::SectionTag;
    std::vector<file::Content> all = {{SectionTag::tree_roots, trees_.roots},
                                      {SectionTag::split_children, trees_.children}};
    if (metric() == Metric::hamming) {
        all.push_back({SectionTag::split_bits, trees_.bits});
    } else {
        all.push_back({SectionTag::split_offsets, trees_.offsets});
        all.push_back({SectionTag::split_planes, trees_.planes});
    }
    all.push_back({SectionTag::leaf_bounds, trees_.leaf_bounds});
    all.push_back({SectionTag::leaf_rows, trees_.leaf_rows});
    if (code_bits() != 0) all.push_back({SectionTag::codes, codes_.rows.bytes()});
    if (plane_codes_.rows.size() != 0) all.push_back({SectionTag::plane_codes, plane_codes_.rows.bytes()});
    return all;
}

}  // namespace constann
