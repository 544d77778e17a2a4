// Keeps the k nearest rows offered to it, by (distance, row): the same ones whatever the order of the offers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "core/ids.hpp"
#include "core/ordered.hpp"

namespace constann {

class NearestRows {
  public:
    // Empties it, to hold at most `k` rows; no offer then takes memory.
    void reset(std::size_t k) {
        k_ = k;
        keys_.clear();
        keys_.reserve(k);
    }

    // No row may be offered twice.
    void offer(float distance, std::uint32_t row) {
        const std::uint64_t key = sort_key(distance, row);
        if (keys_.size() < k_) {
            keys_.push_back(key);
            std::push_heap(keys_.begin(), keys_.end());
        } else if (key < keys_.front()) {
            std::pop_heap(keys_.begin(), keys_.end());
            keys_.back() = key;
            std::push_heap(keys_.begin(), keys_.end());
        }
    }

    // The keys of (distance, row), nearest first. Empties the set.
    std::vector<std::uint64_t> take_sorted() {
        std::sort(keys_.begin(), keys_.end());
        return std::move(keys_);
    }

    // Writes the rows' ids and distances, nearest first; what is left over becomes -1 and +inf. Empties the
    // set.
    void write(const Ids& of_rows, std::span<std::int64_t> ids, std::span<float> distances) {
        std::sort(keys_.begin(), keys_.end());
        for (std::size_t i = 0; i < ids.size(); ++i) {
            const bool real = i < keys_.size();
            ids[i] = real ? of_rows.id_of(static_cast<std::uint32_t>(keys_[i] & 0xffffffffu)) : -1;
            distances[i] = real ? from_ordered_bits(static_cast<std::uint32_t>(keys_[i] >> 32))
                                : std::numeric_limits<float>::infinity();
        }
        keys_.clear();
    }

  private:
    std::size_t k_ = 0;
    std::vector<std::uint64_t> keys_;
};

}  // namespace constann
