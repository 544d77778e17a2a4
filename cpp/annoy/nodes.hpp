// The nodes of an Annoy file: items, then trees, then copies of the roots, in an array without a header. Read
// over bytes that nobody vouches for: every reference is checked before it is followed. Nothing here opens a
// file.
//
// The format is that of Annoy 1.15 to 1.17 (github.com/spotify/annoy), little-endian with 32-bit numbers:
// a node begins with a count of rows; 1 is an item, up to K a list of items, and more a split.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/access.hpp"
#include "core/metric.hpp"
#include "forest/forest.hpp"

namespace constann::annoy {

// Where a node of this metric keeps what, in bytes from its beginning.
struct Layout {
    // `packed`: as Annoy 1.15 laid out hamming, without the gap that aligns its words.
    Layout(Metric metric, std::uint32_t dim, bool packed = false);

    bool packed;
    std::uint32_t capacity;     // K: so many numbers of items fit into a node
    std::size_t children;       // two nodes of a split, or a list of items
    std::size_t vector;         // an item's vector, or a split's plane or (hamming) bit
    std::size_t vector_length;  // floats, or for hamming 64-bit words
    std::size_t size;
};

using Items = std::vector<std::int32_t>;

class Nodes {
  public:
    // An empty index to be filled.
    Nodes(Metric metric, std::uint32_t dim);

    // Over a whole file, which `memory` keeps alive. Throws file::FormatError.
    Nodes(Metric metric, std::uint32_t dim, std::span<const std::byte> file,
          std::shared_ptr<const void> memory);

    Nodes(const Nodes&) = delete;
    Nodes& operator=(const Nodes&) = delete;

    Metric metric() const { return metric_; }
    std::uint32_t dim() const { return dim_; }
    bool packed() const { return layout_.packed; }
    std::uint32_t items() const { return items_; }
    std::uint32_t trees() const { return trees_; }

    // What changes the nodes throws std::invalid_argument while another call changes or reads them. Whoever
    // calls what reads them holds this as long, and as long as it uses a span.
    Reading reading() const { return Reading(access_); }

    std::span<const std::byte> bytes() const { return bytes_; }

    // `vector` as Annoy stores it: floats, or packed words for hamming. The item may be one that is there.
    void add_item(std::uint32_t item, std::span<const std::byte> vector);

    // Grows trees and appends them; without a number of trees, so many that there are twice as many nodes as
    // items.
    void build(std::optional<std::uint32_t> trees, unsigned threads, std::uint64_t seed, const Watch& watch);

    // Back to the items alone.
    void unbuild();

    bool is_item(std::uint32_t item) const;
    std::span<const std::byte> vector_of(std::uint32_t item) const;  // which must be below items()
    float distance(std::uint32_t a, std::uint32_t b) const;          // as Annoy returns it

    // The items nearest to `query`, of at most `search_k` that the trees offer, by (distance, item).
    void search(std::span<const std::byte> query, std::size_t n, std::uint64_t search_k, Items& found,
                std::vector<float>& distances) const;

    // A forest with the same trees over the same items: its ids are the items where some are missing.
    std::unique_ptr<Forest> to_forest(const Watch& watch) const;

    // Takes over a forest's rows and trees. Throws std::invalid_argument where its ids are no item numbers.
    static std::unique_ptr<Nodes> from_forest(const Forest& forest, const Watch& watch);

  private:
    class Search;
    class Writer;
    class Reader;

    void open_as(const Layout& layout);
    void count_trees();
    std::int32_t number(std::uint32_t node, std::size_t offset) const;
    float real(std::uint32_t node, std::size_t offset) const;
    float offset_of(std::uint32_t node) const;  // what is added to a split's product
    std::span<std::byte> own_node(std::uint32_t node);
    std::vector<float> scores(std::span<const std::byte> query, std::span<const std::int32_t> items) const;
    void put_item(std::uint32_t item, std::span<const std::byte> vector);
    void drop_trees();
    void append_trees(const Forest& forest, std::span<const std::uint32_t> items, const Watch& watch);
    std::unique_ptr<Forest> forest_of_items(std::uint64_t trees, const Watch& watch) const;

    const Metric metric_;
    const std::uint32_t dim_;
    Layout layout_;
    Access access_;
    std::vector<std::byte> own_;
    std::shared_ptr<const void> memory_;
    std::span<const std::byte> bytes_;
    std::uint32_t nodes_ = 0;
    std::uint32_t items_ = 0;
    std::atomic<std::uint32_t> trees_ = 0;  // asked for during a build too
};

}  // namespace constann::annoy
