// Pairs that came lately, in the order of their coming: found by (user, item), and all of a user's. A few at
// a time, as each takes four times what it does in a PairTable, where they go in the end.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pairs/pair_table.hpp"

namespace constann {

class RecentPairs {
  public:
    std::uint64_t size() const { return entries_.size(); }
    std::uint64_t bytes() const {
        return entries_.size() * sizeof(Entry) + (by_pair_.size() + by_user_.size()) * sizeof(std::uint32_t);
    }

    // The value of a pair, or null; void once another is inserted.
    const ValueBits* find(std::uint32_t user, std::uint32_t item) const;
    ValueBits* find(std::uint32_t user, std::uint32_t item);

    // A pair that is not there yet.
    void insert(const Pair& pair);

    // Calls `take(pair)` for each pair of a user, in no order that may reach a result.
    template <class Take>
    void each_of(std::uint32_t user, const Take& take) const {
        for (std::uint32_t i = head_of(user); i != kNone; i = entries_[i].next) take(entries_[i].pair);
    }

    // All of them by (user, item).
    std::vector<Pair> in_order() const;

  private:
    static constexpr std::uint32_t kNone = 0xffffffff;
    struct Entry {
        Pair pair;
        std::uint32_t next;  // another of the same user
    };

    std::uint32_t head_of(std::uint32_t user) const;
    std::size_t slot_of_pair(std::uint64_t key) const;
    std::size_t slot_of_user(std::uint32_t user) const;
    void grow();

    // Open addressing: each table has a power of two of slots, at least four for every three entries.
    std::vector<Entry> entries_;
    std::vector<std::uint32_t> by_pair_, by_user_;
};

}  // namespace constann
