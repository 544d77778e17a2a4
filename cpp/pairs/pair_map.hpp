// The map (user, item) -> value that users see: a table of pairs in order, the few that came since, and for
// an opened map the table in its file, which is never changed. What it holds, and the bytes of its file,
// depend on the pairs and values alone, not on the order in which pairs came.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/access.hpp"
#include "file/format.hpp"
#include "pairs/pair_table.hpp"
#include "pairs/pair_updates.hpp"
#include "pairs/pair_value.hpp"
#include "pairs/recent_pairs.hpp"

namespace constann {

// Names element i of what the caller gave, for errors.
using NameOf = std::function<std::string(std::uint64_t i)>;

class PairMap {
  public:
    static constexpr std::uint64_t kMostPairs = 0xfffffffe;

    explicit PairMap(ValueType type);

    // Over the bytes of a whole file, which `memory` keeps alive. Throws file::FormatError.
    PairMap(std::span<const std::byte> file, std::shared_ptr<const void> memory);

    ValueType type() const { return type_; }
    std::uint64_t size() const { return size_; }
    std::uint64_t changes() const { return changes_; }  // rises with each

    // Reading never inserts. Throws file::FormatError where the file is damaged.
    std::optional<ValueBits> find(std::uint32_t user, std::uint32_t item) const;
    std::vector<Pair> pairs_of(std::uint32_t user) const;  // by rising item

    // All, or where one is bad, none: then throws std::invalid_argument. One after another, as they are
    // given.
    void apply(const PairUpdates& updates, const NameOf& name);

    // Brings all pairs into one table in order, if they are not. Throws file::FormatError.
    void settle();

    // Settles, and keeps changes away while the result lives.
    Reading hold();

    // What a settled map has, and what its file holds.
    const PairTable& table() const { return opened_ ? *opened_ : table_; }
    file::Header header() const;
    std::vector<file::Content> contents() const;

    // Bytes in memory or mapped, without what the allocator adds.
    std::uint64_t bytes() const;

  private:
    void apply_one(const PairUpdates& updates, const NameOf& name);
    Outcomes outcomes(const PairUpdates& updates, const Share& share) const;
    std::uint64_t first_bad(const PairUpdates& updates, const std::vector<Share>& shares) const;
    void put(const Pair& pair);
    void merge();
    bool settled() const { return recent_.size() == 0 && (!opened_ || table_.pairs() == 0); }

    ValueType type_;
    std::uint64_t size_ = 0;
    std::uint64_t changes_ = 0;
    Access access_{"the map"};
    std::shared_ptr<const void> memory_;
    std::optional<PairTable> opened_;  // in the file
    PairTable table_;                  // of an opened map: what it has instead of, or beside, its file's
    RecentPairs recent_;               // none of which is in table_
};

}  // namespace constann
