// Between Annoy's nodes and a forest, both ways: the same trees over the same vectors.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "annoy/nodes.hpp"
#include "file/little_endian.hpp"
#include "kernels/floating_point.hpp"

namespace constann::annoy {
namespace {

constexpr std::uint32_t kMaxItems = INT32_MAX / 2;
constexpr std::size_t kItemsAtOnce = 4096;

// Element e is bit e % 64 of word e / 64 in Annoy, the highest bit first of a byte here.
void turn_bytes(std::span<std::byte> row) {
    for (std::byte& byte : row) {
        auto bits = static_cast<unsigned>(byte);
        bits = (bits & 0xf0u) >> 4 | (bits & 0x0fu) << 4;
        bits = (bits & 0xccu) >> 2 | (bits & 0x33u) << 2;
        bits = (bits & 0xaau) >> 1 | (bits & 0x55u) << 1;
        byte = static_cast<std::byte>(bits);
    }
}

// The number of an element's bit in a split of Annoy, which counts from the highest bit of a word; and back.
std::uint32_t turn_bit(std::uint32_t bit) {
    return bit / 64 * 64 + 63 - bit % 64;
}

}  // namespace

// Appends the trees of a forest, whose row i is item items[i].
class Nodes::Writer {
  public:
    Writer(Nodes& nodes, const Forest& forest, std::span<const std::uint32_t> items)
        : n_(nodes), trees_(forest.tree_view()), items_(items) {}

    void write(const Watch& watch) {
        const std::uint64_t roots = trees_.roots.size() / sizeof(std::uint32_t);
        const std::uint64_t leaves = trees_.leaf_bounds.size() / sizeof(std::uint64_t);
        // At most so many, so that they are not moved as they come; what is not needed is never touched.
        n_.own_.reserve((n_.nodes_ + trees_.splits() + leaves + 2 * roots) * n_.layout_.size);
        std::vector<std::uint32_t> written;
        for (std::uint64_t tree = 0; tree < roots; ++tree) {
            if (watch) watch(tree, roots);
            written.push_back(write_root(file::load<std::uint32_t>(trees_.roots.data(), tree)));
        }
        for (const std::uint32_t root : written) {
            const std::uint32_t copy = append();
            std::memcpy(n_.own_node(copy).data(), n_.own_node(root).data(), n_.layout_.size);
        }
        n_.trees_ = static_cast<std::uint32_t>(written.size());
    }

  private:
    // A node of the forest on its way: its rows are known once its children are written.
    struct Open {
        std::uint32_t node;
        bool below_written;
    };
    struct Written {
        std::uint32_t node;
        std::vector<std::uint32_t> rows;  // kept as long as they may still become one list
        std::uint64_t count;
    };

    std::uint32_t append() {
        if (n_.nodes_ == static_cast<std::uint32_t>(INT32_MAX)) {
            throw std::invalid_argument("these trees have more nodes than Annoy can number: use fewer trees");
        }
        n_.own_.resize(n_.own_.size() + n_.layout_.size);
        n_.bytes_ = n_.own_;
        return n_.nodes_++;
    }

    void put(std::uint32_t node, std::size_t offset, std::uint32_t number) {
        std::memcpy(&n_.own_node(node)[offset], &number, sizeof number);
    }

    std::vector<std::uint32_t> rows_of_leaf(std::uint32_t leaf) {
        const std::uint64_t leaves = trees_.leaf_bounds.size() / sizeof(std::uint64_t) - 1;
        if (leaf >= leaves) file::damaged("a child points past the last leaf");
        if (++leaves_taken_ > leaves) file::damaged("its trees share leaves");
        const auto begin = file::load<std::uint64_t>(trees_.leaf_bounds.data(), leaf);
        const auto end = file::load<std::uint64_t>(trees_.leaf_bounds.data(), std::uint64_t{leaf} + 1);
        const std::uint64_t all = trees_.leaf_rows.size() / sizeof(std::uint32_t);
        if (begin > end || end > all) file::damaged("a leaf lies outside its section");
        if (end - begin > all - rows_taken_) file::damaged("its leaves overlap");
        if (end - begin > n_.layout_.capacity) file::damaged("a leaf holds more rows than it has room for");
        rows_taken_ += end - begin;
        std::vector<std::uint32_t> rows;
        for (std::uint64_t i = begin; i < end; ++i) {
            const auto row = file::load<std::uint32_t>(trees_.leaf_rows.data(), i);
            if (row >= items_.size()) file::damaged("a leaf names a row that does not exist");
            rows.push_back(items_[row]);
        }
        return rows;
    }

    // The children of a split come before it, so that a root comes last: an explicit stack, children first.
    std::uint32_t write_root(std::uint32_t root) {
        std::vector<Open> open = {{root, false}};
        std::vector<Written> done;
        while (!open.empty()) {
            const Open next = open.back();
            open.pop_back();
            if (next.node & kLeafBit) {
                std::vector<std::uint32_t> rows = rows_of_leaf(next.node & ~kLeafBit);
                const std::uint64_t count = rows.size();
                done.push_back({kNone, std::move(rows), count});
            } else if (!next.below_written) {
                if (next.node >= trees_.splits()) file::damaged("a child points past the last split");
                if (++splits_taken_ > trees_.splits()) file::damaged("its trees share splits");
                open.push_back({next.node, true});
                for (const std::uint32_t side : {1u, 0u}) {
                    const auto child = file::load<std::uint32_t>(trees_.children.data(),
                                                                 2 * std::uint64_t{next.node} + side);
                    if (!(child & kLeafBit) && child <= next.node)
                        file::damaged("a child does not come after its parent");
                    open.push_back({child, false});
                }
            } else {
                Written second = std::move(done.back());
                done.pop_back();
                Written first = std::move(done.back());
                done.back() = join(next.node, std::move(first), std::move(second));
            }
        }
        return settle_root(std::move(done.back()));
    }

    // Two sides that fit into one list become one: Annoy takes a node of so few for a list.
    Written join(std::uint32_t split, Written first, Written second) {
        const std::uint64_t count = first.count + second.count;
        if (count <= n_.layout_.capacity) {
            first.rows.insert(first.rows.end(), second.rows.begin(), second.rows.end());
            first.count = count;
            return first;
        }
        const std::uint32_t children[2] = {place(first), place(second)};
        return {write_split(split, count, children), {}, count};
    }

    // The node of rows that stay together: the item itself where it is one.
    std::uint32_t place(const Written& written) {
        if (written.node != kNone) return written.node;
        if (written.rows.size() == 1) return written.rows[0];
        return write_list(written.rows, static_cast<std::uint32_t>(written.rows.size()));
    }

    std::uint32_t write_list(std::span<const std::uint32_t> rows, std::uint32_t count) {
        const std::uint32_t node = append();
        put(node, 0, count);
        for (std::size_t i = 0; i < rows.size(); ++i)
            put(node, n_.layout_.children + i * sizeof(std::uint32_t), rows[i]);
        return node;
    }

    std::uint32_t write_split(std::uint32_t split, std::uint64_t count,
                              std::span<const std::uint32_t> children) {
        const std::uint32_t node = append();
        put(node, 0, static_cast<std::uint32_t>(count));
        put(node, n_.layout_.children, children[0]);
        put(node, n_.layout_.children + sizeof(std::uint32_t), children[1]);
        if (split == kNone) return node;
        std::byte* vector = &n_.own_node(node)[n_.layout_.vector];
        if (n_.metric_ == Metric::hamming) {
            const auto bit = file::load<std::uint32_t>(trees_.bits.data(), split);
            const std::uint64_t number = bit == kNoBit ? 0 : turn_bit(bit);
            std::memcpy(vector, &number, sizeof number);
            return node;
        }
        const std::size_t stride = row_stride(n_.metric_, n_.dim_);
        std::memcpy(vector, &trees_.planes[split * stride], n_.layout_.vector_length);
        if (n_.metric_ == Metric::euclidean || n_.metric_ == Metric::manhattan) {
            std::memcpy(&n_.own_node(node)[4], &trees_.offsets[split * sizeof(float)], sizeof(float));
        }
        return node;
    }

    // A root counts all items, holes included, so that it may not be a list where these are more than fit in
    // one.
    std::uint32_t settle_root(Written root) {
        if (root.count == 0) file::damaged("a tree holds no rows");
        if (root.node == kNone && n_.items_ > n_.layout_.capacity) {
            // A lone item is on both sides.
            const std::size_t half = root.rows.size() / 2;
            const std::span all(root.rows);
            const Written first{kNone, copy_of(all.first(std::max<std::size_t>(half, 1))), 0};
            const Written second{kNone, copy_of(all.subspan(half)), 0};
            const std::uint32_t children[2] = {place(first), place(second)};
            root.node = write_split(kNone, n_.items_, children);
        } else if (root.node == kNone) {
            root.node = write_list(root.rows, n_.items_);
        }
        put(root.node, 0, n_.items_);
        return root.node;
    }

    static std::vector<std::uint32_t> copy_of(std::span<const std::uint32_t> rows) {
        return {rows.begin(), rows.end()};
    }

    static constexpr std::uint32_t kNone = 0xffffffffu;

    Nodes& n_;
    const TreesView& trees_;
    std::span<const std::uint32_t> items_;
    std::uint64_t splits_taken_ = 0;
    std::uint64_t leaves_taken_ = 0;
    std::uint64_t rows_taken_ = 0;
};

void Nodes::append_trees(const Forest& forest, std::span<const std::uint32_t> items, const Watch& watch) {
    Writer(*this, forest, items).write(watch);
}

// The present items as rows of a forest, which has not grown yet. A few at a time: they never lie in memory
// a third time.
std::unique_ptr<Forest> Nodes::forest_of_items(std::uint64_t trees, const Watch& watch) const {
    auto forest = std::make_unique<Forest>(dim_, metric_, trees, std::nullopt, 0);
    const bool bits = metric_ == Metric::hamming;
    std::uint32_t present = 0;
    for (std::uint32_t item = 0; item < items_; ++item) present += is_item(item);
    std::vector<std::int64_t> ids;
    Bytes rows;
    const auto add = [&] {
        const Matrix matrix{rows.data(),
                            bits ? ElementType::uint8 : ElementType::float32,
                            ids.size(),
                            columns_of(metric_, dim_),
                            static_cast<std::ptrdiff_t>(layout_.vector_length),
                            bits ? 1 : static_cast<std::ptrdiff_t>(sizeof(float))};
        if (watch) watch(forest->size(), present);
        forest->add(matrix, present != items_ ? GivenIds(std::span<const std::int64_t>(ids)) : GivenIds());
        ids.clear();
        rows.clear();
    };
    for (std::uint32_t item = 0; item < items_; ++item) {
        if (!is_item(item)) continue;
        ids.push_back(item);
        const std::span<const std::byte> vector = vector_of(item);
        rows.insert(rows.end(), vector.begin(), vector.end());
        if (bits) turn_bytes(std::span(rows).last(vector.size()));
        if (ids.size() == kItemsAtOnce) add();
    }
    if (!ids.empty()) add();
    return forest;
}

void Nodes::build(std::optional<std::uint32_t> trees, unsigned threads, std::uint64_t seed,
                  const Watch& watch) {
    const Change change(access_);
    std::vector<std::uint32_t> items;
    for (std::uint32_t item = 0; item < items_; ++item) {
        if (is_item(item)) items.push_back(item);
    }
    if (items.empty()) return;
    // Without a number: one tree after another until the nodes are twice the items, as Annoy does.
    std::uint64_t count = trees.value_or(1);
    for (;;) {
        const std::unique_ptr<Forest> forest = forest_of_items(count, watch);
        forest->build(threads, seed, watch);
        try {
            append_trees(*forest, items, watch);
        } catch (...) {
            drop_trees();
            throw;
        }
        const std::uint64_t nodes = nodes_ - trees_;
        if (trees || nodes >= 2 * std::uint64_t{items_}) return;
        const std::uint64_t each = (nodes - items_) / count;
        drop_trees();
        count = std::max(count + 1, (std::uint64_t{items_} + each - 1) / std::max<std::uint64_t>(each, 1));
    }
}

// Follows the roots of Annoy's trees and numbers what it meets as a forest does, parents first.
class Nodes::Reader {
  public:
    Reader(const Nodes& nodes, std::span<const std::uint32_t> rows) : n_(nodes), rows_(rows) {}

    Trees read(const Watch& watch) {
        out_.leaf_bounds.push_back(0);
        for (std::uint32_t root = n_.nodes_ - n_.trees_; root < n_.nodes_; ++root) {
            if (watch) watch(out_.roots.size(), n_.trees_);
            out_.roots.push_back(0);
            std::vector<Open> open = {{root, kNoChild}};
            while (!open.empty()) {
                const Open next = open.back();
                open.pop_back();
                const std::uint32_t number = take(next.node, open);
                (next.child == kNoChild ? out_.roots.back() : out_.children[next.child]) = number;
            }
        }
        return std::move(out_);
    }

  private:
    static constexpr std::size_t kNoChild = static_cast<std::size_t>(-1);
    struct Open {
        std::uint32_t node;
        std::size_t child;
    };

    [[noreturn]] static void damaged(const char* what) {
        throw file::FormatError(std::string("the Annoy index is damaged: ") + what);
    }

    std::uint32_t take(std::uint32_t node, std::vector<Open>& open) {
        const std::int32_t count = n_.number(node, 0);
        if (count < 0) damaged("a node counts less than no items");
        if (node < n_.items_) {
            if (count > 1) damaged("a split lies among the items");
            return leaf(node, count == 1 ? 1 : 0, true);
        }
        if (++taken_ > n_.nodes_) damaged("its trees share nodes");
        if (static_cast<std::uint32_t>(count) <= n_.layout_.capacity) return leaf(node, count, false);
        return split(node, open);
    }

    std::uint32_t leaf(std::uint32_t node, std::int32_t count, bool is_item) {
        for (std::int32_t i = 0; i < count; ++i) {
            const std::int32_t item =
                is_item ? static_cast<std::int32_t>(node)
                        : n_.number(node,
                                    n_.layout_.children + static_cast<std::size_t>(i) * sizeof(std::int32_t));
            if (item < 0 || static_cast<std::uint32_t>(item) >= n_.items_)
                damaged("a node names an item that does not exist");
            if (n_.is_item(static_cast<std::uint32_t>(item)))
                out_.leaf_rows.push_back(rows_[static_cast<std::uint32_t>(item)]);
        }
        out_.leaf_bounds.push_back(out_.leaf_rows.size());
        return kLeafBit | static_cast<std::uint32_t>(out_.leaf_bounds.size() - 2);
    }

    std::uint32_t split(std::uint32_t node, std::vector<Open>& open) {
        const auto number = static_cast<std::uint32_t>(out_.children.size() / 2);
        out_.children.insert(out_.children.end(), 2, 0);
        if (n_.metric_ == Metric::hamming) {
            const auto bit =
                file::load<std::uint64_t>(&n_.bytes_[node * n_.layout_.size + n_.layout_.vector]);
            if (bit / 8 >= n_.layout_.vector_length) damaged("a split tests a bit that no item has");
            out_.bits.push_back(turn_bit(static_cast<std::uint32_t>(bit)));
        } else {
            const std::size_t before = out_.planes.size();
            out_.planes.resize(before + row_stride(n_.metric_, n_.dim_) / sizeof(float));
            std::memcpy(&out_.planes[before], n_.vector_of(node).data(), n_.layout_.vector_length);
            out_.offsets.push_back(n_.offset_of(node));
        }
        for (const std::uint32_t side : {1u, 0u}) {
            const std::int32_t child = n_.number(node, n_.layout_.children + side * sizeof(std::int32_t));
            if (child < 0 || static_cast<std::uint32_t>(child) >= n_.nodes_) {
                damaged("a split points to a node that does not exist");
            }
            open.push_back({static_cast<std::uint32_t>(child), 2 * std::size_t{number} + side});
        }
        return number;
    }

    const Nodes& n_;
    std::span<const std::uint32_t> rows_;
    Trees out_;
    std::uint64_t taken_ = 0;
};

float Nodes::offset_of(std::uint32_t node) const {
    switch (metric_) {
        case Metric::euclidean:
        case Metric::manhattan:
            return real(node, 4);
        case Metric::dot: {
            const float factor = real(node, 12);
            return factor * factor;
        }
        default:
            return 0.0f;
    }
}

std::unique_ptr<Forest> Nodes::to_forest(const Watch& watch) const {
    if (trees_ == 0) throw std::invalid_argument("the index is not built: call build() first");
    std::vector<std::uint32_t> row_of(items_);
    std::uint32_t rows = 0;
    for (std::uint32_t item = 0; item < items_; ++item) {
        row_of[item] = rows;
        if (is_item(item)) ++rows;
    }
    std::unique_ptr<Forest> forest = forest_of_items(trees_, watch);
    kernels::with_canonical_floating_point([&] { forest->adopt(Reader(*this, row_of).read(watch), watch); });
    return forest;
}

std::unique_ptr<Nodes> Nodes::from_forest(const Forest& forest, const Watch& watch) {
    auto nodes = std::make_unique<Nodes>(forest.metric(), forest.dim());
    std::vector<std::uint32_t> items;
    for (std::uint64_t row = 0; row < forest.size(); ++row) {
        const std::int64_t id = forest.ids().id_of(static_cast<std::uint32_t>(row));
        if (id < 0 || id > kMaxItems) {
            throw std::invalid_argument("id " + std::to_string(id) +
                                        " cannot be an item of Annoy, which numbers them from 0 to " +
                                        std::to_string(kMaxItems));
        }
        items.push_back(static_cast<std::uint32_t>(id));
    }
    const std::uint32_t last = *std::max_element(items.begin(), items.end());
    nodes->own_.reserve((std::size_t{last} + 1) * nodes->layout_.size);
    kernels::with_canonical_floating_point([&] {
        for (std::uint64_t row = 0; row < forest.size(); ++row) {
            if (watch && row % kItemsAtOnce == 0) watch(row, forest.size());
            const std::byte* from = forest.rows()[row];
            Bytes vector(from, from + nodes->layout_.vector_length);
            if (forest.metric() == Metric::hamming) turn_bytes(vector);
            nodes->put_item(items[row], vector);
        }
    });
    nodes->append_trees(forest, items, watch);
    return nodes;
}

}  // namespace constann::annoy
