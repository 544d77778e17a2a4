// See recent_pairs.hpp.
#include "pairs/recent_pairs.hpp"

#include <algorithm>

namespace constann {
namespace {

// The finaliser of SplitMix64: every bit of the key reaches every bit of the slot.
std::uint64_t scattered(std::uint64_t key) {
    key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
    key = (key ^ (key >> 27)) * 0x94d049bb133111ebu;
    return key ^ (key >> 31);
}

}  // namespace

std::size_t RecentPairs::slot_of_pair(std::uint64_t key) const {
    const std::size_t mask = by_pair_.size() - 1;
    std::size_t slot = static_cast<std::size_t>(scattered(key)) & mask;
    while (by_pair_[slot] != kNone) {
        if (key_of(entries_[by_pair_[slot]].pair) == key) break;
        slot = (slot + 1) & mask;
    }
    return slot;
}

std::size_t RecentPairs::slot_of_user(std::uint32_t user) const {
    const std::size_t mask = by_user_.size() - 1;
    std::size_t slot = static_cast<std::size_t>(scattered(user)) & mask;
    while (by_user_[slot] != kNone && entries_[by_user_[slot]].pair.user != user) slot = (slot + 1) & mask;
    return slot;
}

std::uint32_t RecentPairs::head_of(std::uint32_t user) const {
    return entries_.empty() ? kNone : by_user_[slot_of_user(user)];
}

const ValueBits* RecentPairs::find(std::uint32_t user, std::uint32_t item) const {
    if (entries_.empty()) return nullptr;
    const std::uint32_t found = by_pair_[slot_of_pair(key_of(user, item))];
    return found == kNone ? nullptr : &entries_[found].pair.value;
}

ValueBits* RecentPairs::find(std::uint32_t user, std::uint32_t item) {
    return const_cast<ValueBits*>(static_cast<const RecentPairs&>(*this).find(user, item));
}

void RecentPairs::insert(const Pair& pair) {
    if ((entries_.size() + 1) * 4 > by_pair_.size() * 3) grow();
    std::uint32_t& head = by_user_[slot_of_user(pair.user)];
    const auto entry = static_cast<std::uint32_t>(entries_.size());
    entries_.push_back({pair, head});
    head = entry;
    by_pair_[slot_of_pair(key_of(pair))] = entry;
}

void RecentPairs::grow() {
    const std::size_t slots = std::max<std::size_t>(16, by_pair_.size() * 2);
    std::vector<std::uint32_t> by_pair(slots, kNone), by_user(slots, kNone);
    by_pair_.swap(by_pair);
    by_user_.swap(by_user);
    for (std::uint32_t i = 0; i < entries_.size(); ++i) {
        Entry& entry = entries_[i];
        by_pair_[slot_of_pair(key_of(entry.pair))] = i;
        std::uint32_t& head = by_user_[slot_of_user(entry.pair.user)];
        entry.next = head;
        head = i;
    }
}

std::vector<Pair> RecentPairs::in_order() const {
    std::vector<Pair> pairs;
    pairs.reserve(entries_.size());
    for (const Entry& entry : entries_) pairs.push_back(entry.pair);
    std::sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) { return key_of(a) < key_of(b); });
    return pairs;
}

}  // namespace constann
