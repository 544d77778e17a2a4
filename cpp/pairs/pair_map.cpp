// See pair_map.hpp.
#include "pairs/pair_map.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace constann {
namespace {

// So many recent pairs are kept at least, and one for so many in the table: more of them would take memory,
// fewer of them time, as all of the table moves when they come into it.
constexpr std::uint64_t kRecentAtLeast = 1 << 16;
constexpr std::uint64_t kTableForEachRecent = 50;

constexpr file::SectionTag kTags[kParts] = {file::SectionTag::pair_users, file::SectionTag::pair_starts,
                                            file::SectionTag::pair_items, file::SectionTag::pair_values};

ValueType type_in(const file::Header& header) {
    if (header.kind != file::Kind::pairs)
        throw file::FormatError("the file holds an index: open it with constann.open()");
    return static_cast<ValueType>(file::parameter(header, file::ParameterTag::value_type,
                                                  static_cast<std::uint64_t>(ValueType::int8),
                                                  static_cast<std::uint64_t>(ValueType::float32)));
}

PairTable table_in(const file::Header& header, std::span<const std::byte> file, ValueType type) {
    const std::uint64_t users = file::parameter(header, file::ParameterTag::pair_users, 0, header.rows);
    const std::uint64_t lengths[kParts] = {users * sizeof(std::uint32_t), (users + 1) * sizeof(std::uint32_t),
                                           header.rows * sizeof(std::uint32_t), header.rows * width_of(type)};
    PartBytes parts;
    for (std::size_t i = 0; i < kParts; ++i) parts[i] = file::section(header, file, kTags[i], lengths[i]);
    return PairTable(type, parts);
}

std::string quoted_pair(std::int64_t user, std::int64_t item) {
    return "(" + std::to_string(user) + ", " + std::to_string(item) + ")";
}

[[noreturn]] void refuse(const PairUpdates& updates, std::uint64_t i, ValueType type, const NameOf& name) {
    const std::string pair = quoted_pair(updates.users.integer(i), updates.items.integer(i));
    std::string limits = "finite numbers";
    if (type != ValueType::float32) {
        const IntegerRange range = range_of(type);
        limits = std::to_string(range.least) + " to " + std::to_string(range.greatest);
    }
    throw std::invalid_argument(name(i) +
                                (updates.update == Update::set ? ": the value of " : ": the sum for ") +
                                pair + " does not fit: a map of " + name_of(type) + " holds " + limits +
                                "; nothing was changed, use a map of a wider dtype");
}

}  // namespace

PairMap::PairMap(ValueType type) : type_(type), table_(type) {}

PairMap::PairMap(std::span<const std::byte> file, std::shared_ptr<const void> memory)
    : PairMap(type_in(file::parse(file))) {
    const file::Header header = file::parse(file);
    opened_.emplace(table_in(header, file, type_));
    memory_ = std::move(memory);
    size_ = header.rows;
    file::check_layout(header, this->header());
}

std::optional<ValueBits> PairMap::find(std::uint32_t user, std::uint32_t item) const {
    if (const auto place = table_.find(user, item)) return table_.value(*place);
    if (const ValueBits* value = recent_.find(user, item)) return *value;
    if (!opened_) return std::nullopt;
    const auto place = opened_->find(user, item);
    return place ? std::optional(opened_->value(*place)) : std::nullopt;
}

std::vector<Pair> PairMap::pairs_of(std::uint32_t user) const {
    std::vector<Pair> pairs;
    recent_.each_of(user, [&](const Pair& pair) { pairs.push_back(pair); });
    const auto take = [&](const PairTable& table) {
        const PairTable::Range range = table.range_of(user);
        for (std::uint64_t place = range.begin; place < range.end; ++place)
            pairs.push_back({user, table.item(place), table.value(place)});
    };
    take(table_);
    if (opened_) take(*opened_);
    // Stable: of a pair that is in the file as well, what came since is first.
    const auto by_item = [](const Pair& a, const Pair& b) { return a.item < b.item; };
    if (!std::is_sorted(pairs.begin(), pairs.end(), by_item))
        std::stable_sort(pairs.begin(), pairs.end(), by_item);
    const auto same = [](const Pair& a, const Pair& b) { return a.item == b.item; };
    pairs.erase(std::unique(pairs.begin(), pairs.end(), same), pairs.end());
    return pairs;
}

void PairMap::apply(const PairUpdates& updates, const NameOf& name) {
    if (updates.count == 0) return;
    if (updates.count > kMostPairs) throw std::invalid_argument("too many pairs for one call: give fewer");
    const Change change(access_);
    if (updates.count == 1) {
        apply_one(updates, name);
    } else {
        const std::vector<Share> shares = shares_of(updates);
        // With one share its outcomes tell; with more of them all are judged before any is put.
        std::uint64_t bad = shares.size() > 1 ? first_bad(updates, shares) : updates.count;
        for (const Share& share : shares) {
            const Outcomes become = outcomes(updates, share);
            bad = std::min(bad, become.bad);
            if (bad != updates.count) refuse(updates, bad, type_, name);
            for (const Pair& pair : become.pairs) put(pair);
        }
    }
    ++changes_;
}

void PairMap::apply_one(const PairUpdates& updates, const NameOf& name) {
    const auto user = static_cast<std::uint32_t>(updates.users.integer(0));
    const auto item = static_cast<std::uint32_t>(updates.items.integer(0));
    const ValueBits before = updates.update == Update::add ? find(user, item).value_or(0) : 0;
    const auto after = updated(type_, updates.update, before, updates.numbers, 0);
    if (!after) refuse(updates, 0, type_, name);
    put({user, item, *after});
}

Outcomes PairMap::outcomes(const PairUpdates& updates, const Share& share) const {
    return outcomes_of(updates, share, type_, [this](std::uint32_t user, std::uint32_t item) {
        return find(user, item).value_or(0);
    });
}

std::uint64_t PairMap::first_bad(const PairUpdates& updates, const std::vector<Share>& shares) const {
    std::uint64_t bad = updates.count;
    if (updates.update == Update::set) {  // where no number depends on what came before
        for (std::uint64_t i = 0; i < bad; ++i) {
            if (!updated(type_, Update::set, 0, updates.numbers, i)) bad = i;
        }
        return bad;
    }
    for (const Share& share : shares) bad = std::min(bad, outcomes(updates, share).bad);
    return bad;
}

void PairMap::put(const Pair& pair) {
    if (const auto place = table_.find(pair.user, pair.item)) return table_.store(*place, pair.value);
    if (ValueBits* value = recent_.find(pair.user, pair.item)) {
        *value = pair.value;
        return;
    }
    const bool in_file = opened_ && opened_->find(pair.user, pair.item);
    if (!in_file && size_ == kMostPairs)
        throw std::invalid_argument("a map holds at most " + std::to_string(kMostPairs) + " pairs");
    if (recent_.size() >= std::max(kRecentAtLeast, table_.pairs() / kTableForEachRecent)) merge();
    recent_.insert(pair);
    if (!in_file) ++size_;
}

void PairMap::merge() {
    table_.insert(recent_.in_order());
    recent_ = RecentPairs();  // not before: where memory ends, nothing is lost
}

void PairMap::settle() {
    if (settled()) return;
    const Change change(access_);
    merge();
    if (!opened_) return;
    PairMap whole(type_);
    whole.table_ = opened_->copy();
    whole.size_ = whole.table_.pairs();
    for (std::uint64_t i = 0; i < table_.users(); ++i) {
        const PairTable::Range range = table_.range(i);
        for (std::uint64_t place = range.begin; place < range.end; ++place)
            whole.put({table_.user(i), table_.item(place), table_.value(place)});
    }
    whole.merge();
    table_ = std::move(whole.table_);
    opened_.reset();
    memory_.reset();
}

Reading PairMap::hold() {
    settle();
    return Reading(access_);
}

file::Header PairMap::header() const {
    file::Header header{};
    header.kind = file::Kind::pairs;
    header.rows = table().pairs();
    header.parameters = {{file::ParameterTag::value_type, static_cast<std::uint64_t>(type_)},
                         {file::ParameterTag::pair_users, table().users()}};
    file::place_sections(header, contents());
    return header;
}

std::vector<file::Content> PairMap::contents() const {
    std::vector<file::Content> all;
    const PartBytes parts = table().parts();
    for (std::size_t i = 0; i < kParts; ++i) all.push_back({kTags[i], parts[i]});
    return all;
}

std::uint64_t PairMap::bytes() const {
    std::uint64_t sum = recent_.bytes();
    for (const PairTable* each : {&table_, opened_ ? &*opened_ : nullptr}) {
        if (each == nullptr) continue;
        for (const auto part : each->parts()) sum += part.size();
    }
    return sum;
}

}  // namespace constann
