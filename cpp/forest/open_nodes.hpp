// The nodes a walk has met and not yet visited, best first to within a sixteenth of their priority: buckets
// by the leading bits of the float instead of a heap, which would take longer than all else. The last one in
// of a bucket is the first one out, so that the order depends on nothing but the order of pushing.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "core/ordered.hpp"

namespace constann {

class OpenNodes {
  public:
    struct Node {
        float priority;
        std::uint32_t number;
    };

    OpenNodes() : last_(kBuckets), filled_(kBuckets / 64) {}

    void clear() {
        std::fill(last_.begin(), last_.end(), 0u);
        std::fill(filled_.begin(), filled_.end(), 0u);
        entries_.clear();
        count_ = 0;
        highest_ = 0;
    }

    bool empty() const { return count_ == 0; }
    std::size_t size() const { return count_; }

    // The priority must not be NaN; -0 is as good as 0.
    void push(float priority, std::uint32_t number) {
        const std::uint32_t bucket = ordered_bits(priority + 0.0f) >> kDroppedBits;
        entries_.push_back({{priority, number}, last_[bucket]});
        last_[bucket] = static_cast<std::uint32_t>(entries_.size());
        filled_[bucket / 64] |= std::uint64_t{1} << (bucket % 64);
        highest_ = std::max<std::size_t>(highest_, bucket / 64);
        ++count_;
    }

    // There must be one.
    Node take_best() {
        while (filled_[highest_] == 0) --highest_;
        const auto bit = static_cast<std::uint32_t>(63 - std::countl_zero(filled_[highest_]));
        const std::size_t bucket = highest_ * 64 + bit;
        const Entry& entry = entries_[last_[bucket] - 1];
        last_[bucket] = entry.before;
        if (entry.before == 0) filled_[highest_] &= ~(std::uint64_t{1} << bit);
        --count_;
        return entry.node;
    }

  private:
    static constexpr unsigned kDroppedBits = 19;  // 1 sign, 8 exponent and 4 fraction bits are left
    static constexpr std::size_t kBuckets = std::size_t{1} << (32 - kDroppedBits);

    struct Entry {
        Node node;
        std::uint32_t before;  // the entry of the same bucket pushed before it, counted from 1; 0 is none
    };

    std::vector<Entry> entries_;
    std::vector<std::uint32_t> last_;  // of each bucket, counted from 1
    std::vector<std::uint64_t> filled_;
    std::size_t highest_ = 0;  // no word of `filled_` beyond this one has a bit
    std::size_t count_ = 0;
};

}  // namespace constann
