// See pair_updates.hpp.
#include "pairs/pair_updates.hpp"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "core/random.hpp"

namespace constann {
namespace {

// So many updates are a share; each takes 12 bytes while it is looked at. More of them would take memory,
// fewer of them time, as every share looks at all keys.
constexpr std::uint64_t kShare = 1 << 20;
constexpr std::uint64_t kSampledForEach = 256;

constexpr std::size_t kReadAtOnce = 1024;

bool by_key(const Pair& a, const Pair& b) {
    return key_of(a) < key_of(b);
}

class ShareInWork {
  public:
    ShareInWork(const PairUpdates& updates, ValueType type, const ValueBefore& before)
        : updates_(updates), type_(type), before_(before), bad_(updates.count) {
        given_.reserve(std::min(updates.count, kMostGiven));
    }

    void take(std::uint32_t user, std::uint32_t item, std::uint32_t place) {
        if (given_.size() == kMostGiven) apply_given();
        given_.push_back({user, item, place});
    }

    Outcomes finish() {
        apply_given();
        return {std::move(become_), bad_};
    }

  private:
    static constexpr std::uint64_t kMostGiven = kShare + kShare / 2;

    // Brings what was taken into what the pairs become.
    void apply_given() {
        const auto in_turn = [](const Pair& a, const Pair& b) {
            return key_of(a) != key_of(b) ? key_of(a) < key_of(b) : a.value < b.value;
        };
        if (!std::is_sorted(given_.begin(), given_.end(), in_turn))
            std::sort(given_.begin(), given_.end(), in_turn);
        std::size_t kept = 0;
        for (std::size_t i = 0; i < given_.size();) {
            const Pair first = given_[i];
            ValueBits value = updates_.update == Update::add ? value_so_far(first) : 0;
            for (; i < given_.size() && key_of(given_[i]) == key_of(first); ++i) {
                const std::uint64_t place = given_[i].value;
                const auto after = updated(type_, updates_.update, value, updates_.numbers, place);
                if (!after) bad_ = std::min(bad_, place);
                value = after.value_or(value);
            }
            given_[kept++] = {first.user, first.item, value};
        }
        given_.resize(kept);
        keep_given();
    }

    ValueBits value_so_far(const Pair& pair) const {
        const auto found = std::lower_bound(become_.begin(), become_.end(), pair, by_key);
        if (found != become_.end() && key_of(*found) == key_of(pair)) return found->value;
        return before_(pair.user, pair.item);
    }

    void keep_given() {
        if (become_.empty()) return become_.swap(given_);
        // Only where a call repeats pairs very often: what they became later replaces what they had become.
        std::vector<Pair> all;
        all.reserve(become_.size() + given_.size());
        std::merge(given_.begin(), given_.end(), become_.begin(), become_.end(), std::back_inserter(all),
                   by_key);
        const auto same = [](const Pair& a, const Pair& b) { return key_of(a) == key_of(b); };
        all.erase(std::unique(all.begin(), all.end(), same), all.end());
        become_.swap(all);
        given_.clear();
    }

    const PairUpdates& updates_;
    ValueType type_;
    const ValueBefore& before_;
    std::vector<Pair> given_;   // the value is the place among the updates
    std::vector<Pair> become_;  // by key
    std::uint64_t bad_;
};

}  // namespace

std::vector<Share> shares_of(const PairUpdates& updates) {
    const std::uint64_t number = updates.count / kShare + 1;
    std::vector<Share> shares = {{0, UINT64_MAX}};
    if (number == 1) return shares;
    // Where shares end is drawn, and reaches no result.
    Random random(0, updates.count);
    std::vector<std::uint64_t> keys(number * kSampledForEach);
    for (std::uint64_t& key : keys) {
        const std::uint64_t place = random.below(updates.count);
        key = key_of(static_cast<std::uint32_t>(updates.users.integer(place)),
                     static_cast<std::uint32_t>(updates.items.integer(place)));
    }
    std::sort(keys.begin(), keys.end());
    for (std::uint64_t i = 1; i < number; ++i) {
        const std::uint64_t first = keys[i * kSampledForEach];
        if (first <= shares.back().first) continue;  // one pair fills more than a share
        shares.back().last = first - 1;
        shares.push_back({first, UINT64_MAX});
    }
    return shares;
}

Outcomes outcomes_of(const PairUpdates& updates, const Share& share, ValueType type,
                     const ValueBefore& before) {
    ShareInWork work(updates, type, before);
    std::array<std::uint32_t, kReadAtOnce> users, items;
    for (std::uint64_t first = 0; first < updates.count; first += kReadAtOnce) {
        const auto length =
            static_cast<std::size_t>(std::min<std::uint64_t>(kReadAtOnce, updates.count - first));
        updates.users.read_ids(first, std::span(users).first(length));
        updates.items.read_ids(first, std::span(items).first(length));
        for (std::size_t i = 0; i < length; ++i) {
            const std::uint64_t key = key_of(users[i], items[i]);
            if (key >= share.first && key <= share.last)
                work.take(users[i], items[i], static_cast<std::uint32_t>(first + i));
        }
    }
    return work.finish();
}

}  // namespace constann
