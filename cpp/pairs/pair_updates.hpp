// The updates of one call, and what they make of the pairs they name. They are taken in shares by (user,
// item), so that what a call needs beside the caller's arrays does not grow with them; all updates of a pair
// are in one share. The map itself is not changed here.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "pairs/column.hpp"
#include "pairs/pair_table.hpp"
#include "pairs/pair_value.hpp"

namespace constann {

// Users, items and numbers: as many of each, or one for all. Users and items are 0 to 2^32 - 1.
struct PairUpdates {
    Update update;
    Column users, items, numbers;
    std::uint64_t count;
};

// Whose pairs are taken together: those with keys of `first` to `last`.
struct Share {
    std::uint64_t first, last;
};

// Shares of about equal size, by rising key, that have all pairs between them.
std::vector<Share> shares_of(const PairUpdates& updates);

// The value that a pair has in the map, or 0.
using ValueBefore = std::function<ValueBits(std::uint32_t user, std::uint32_t item)>;

struct Outcomes {
    std::vector<Pair> pairs;  // in order of the pairs
    std::uint64_t bad;  // the first update whose value the type cannot hold; `count` where there is none
};

// What the pairs of a share become; the updates of one pair are applied as they were given.
Outcomes outcomes_of(const PairUpdates& updates, const Share& share, ValueType type,
                     const ValueBefore& before);

}  // namespace constann
