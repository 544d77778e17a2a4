// Pairs in order of (user, item), each with its value: the compact part of a map of pairs. The distinct
// users, where the pairs of each begin, then all items and all values: 4 bytes and a value for each pair, 8
// bytes for each user. It lies in memory of its own, which takes new pairs without lying twice, or in an
// opened file, whose content is not trusted.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/row_store.hpp"
#include "pairs/pair_value.hpp"

namespace constann {

struct Pair {
    std::uint32_t user;
    std::uint32_t item;
    ValueBits value;
};

inline std::uint64_t key_of(std::uint32_t user, std::uint32_t item) {
    return (std::uint64_t{user} << 32) | item;
}

inline std::uint64_t key_of(const Pair& pair) {
    return key_of(pair.user, pair.item);
}

// The arrays of a table, in the order of the file.
enum class Part : std::size_t { users, starts, items, values };
inline constexpr std::size_t kParts = 4;
using PartBytes = std::array<std::span<const std::byte>, kParts>;

class PairTable {
  public:
    struct Range {
        std::uint64_t begin, end;
    };

    explicit PairTable(ValueType type);

    // Over the parts of a file, whose lengths fit together.
    PairTable(ValueType type, const PartBytes& parts);

    // The same in memory of its own. Throws file::FormatError where the parts contradict each other.
    PairTable copy() const;

    std::uint64_t users() const { return users_; }
    std::uint64_t pairs() const { return pairs_; }
    PartBytes parts() const;

    std::uint32_t user(std::uint64_t i) const { return number(Part::users, i); }
    std::uint32_t item(std::uint64_t place) const { return number(Part::items, place); }
    ValueBits value(std::uint64_t place) const;

    // Where the pairs of a user lie; throws file::FormatError where that is outside the table.
    Range range(std::uint64_t user_number) const;
    Range range_of(std::uint32_t user) const;
    std::optional<std::uint64_t> find(std::uint32_t user, std::uint32_t item) const;

    // For a table in memory of its own: changes a value; inserts pairs in order, none of which is there.
    void store(std::uint64_t place, ValueBits value);
    void insert(std::span<const Pair> pairs);

  private:
    std::uint32_t number(Part part, std::uint64_t i) const;
    void put(Part part, std::uint64_t i, std::uint32_t value);
    // The first of the elements begin to end of a part that is not below `value`.
    std::uint64_t lower_bound(Part part, Range among, std::uint32_t value) const;
    RowStore& own(Part part) { return own_[static_cast<std::size_t>(part)]; }
    std::span<const std::byte> bytes(Part part) const { return bytes_[static_cast<std::size_t>(part)]; }
    std::size_t width(Part part) const;

    void check() const;
    void resize(std::uint64_t users, std::uint64_t pairs);
    void spread(std::span<const Pair> pairs, std::uint64_t before);
    void move_run(std::uint64_t from, std::uint64_t to, std::uint64_t count);
    void count_users(std::span<const Pair> pairs, std::uint64_t users_before, std::uint64_t pairs_before);

    ValueType type_;
    std::size_t value_width_;
    std::uint64_t users_ = 0, pairs_ = 0;
    std::array<RowStore, kParts> own_;
    PartBytes bytes_;  // of own_, or of the file
};

// How many users the pairs, which are in order, have.
std::uint64_t users_in(std::span<const Pair> pairs);

}  // namespace constann
