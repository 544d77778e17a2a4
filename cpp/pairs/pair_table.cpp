// See pair_table.hpp.
#include "pairs/pair_table.hpp"

#include <algorithm>
#include <cstring>

#include "file/format.hpp"
#include "file/little_endian.hpp"

namespace constann {
namespace {

[[noreturn]] void damaged(const char* what) {
    throw file::FormatError(std::string("the map is damaged: ") + what);
}

}  // namespace

PairTable::PairTable(ValueType type) : type_(type), value_width_(width_of(type)) {
    resize(0, 0);
}

PairTable::PairTable(ValueType type, const PartBytes& parts)
    : type_(type),
      value_width_(width_of(type)),
      users_(parts[static_cast<std::size_t>(Part::users)].size() / sizeof(std::uint32_t)),
      pairs_(parts[static_cast<std::size_t>(Part::items)].size() / sizeof(std::uint32_t)),
      bytes_(parts) {}

PairTable PairTable::copy() const {
    check();
    PairTable copied(type_);
    copied.resize(users_, pairs_);
    for (std::size_t i = 0; i < kParts; ++i) {
        if (!bytes_[i].empty())
            std::memcpy(copied.own_[i].bytes().data(), bytes_[i].data(), bytes_[i].size());
    }
    return copied;
}

void PairTable::check() const {
    std::uint64_t expected = 0;
    for (std::uint64_t i = 0; i < users_; ++i) {
        const Range own = range(i);
        if (own.begin != expected || own.begin == own.end)
            damaged("its users' pairs do not follow each other");
        if (i > 0 && user(i) <= user(i - 1)) damaged("its users are not in order");
        for (std::uint64_t place = own.begin + 1; place < own.end; ++place) {
            if (item(place) <= item(place - 1)) damaged("a user's items are not in order");
        }
        expected = own.end;
    }
    if (number(Part::starts, users_) != pairs_ || expected != pairs_)
        damaged("its users' pairs do not follow each other");
}

PartBytes PairTable::parts() const {
    return bytes_;
}

std::size_t PairTable::width(Part part) const {
    return part == Part::values ? value_width_ : sizeof(std::uint32_t);
}

std::uint32_t PairTable::number(Part part, std::uint64_t i) const {
    return file::load<std::uint32_t>(bytes(part).data(), i);
}

void PairTable::put(Part part, std::uint64_t i, std::uint32_t value) {
    std::memcpy(own(part).bytes().data() + i * sizeof value, &value, sizeof value);
}

ValueBits PairTable::value(std::uint64_t place) const {
    ValueBits bits = 0;
    std::memcpy(&bits, bytes(Part::values).data() + place * value_width_, value_width_);
    return bits;
}

void PairTable::store(std::uint64_t place, ValueBits value) {
    std::memcpy(own(Part::values).bytes().data() + place * value_width_, &value, value_width_);
}

PairTable::Range PairTable::range(std::uint64_t user_number) const {
    const Range found{number(Part::starts, user_number), number(Part::starts, user_number + 1)};
    if (found.begin > found.end || found.end > pairs_) damaged("a user's pairs lie outside it");
    return found;
}

std::uint64_t PairTable::lower_bound(Part part, Range among, std::uint32_t value) const {
    std::uint64_t begin = among.begin, length = among.end - among.begin;
    while (length > 0) {
        const std::uint64_t half = length / 2;
        const bool below = number(part, begin + half) < value;
        begin += below ? half + 1 : 0;
        length = below ? length - half - 1 : half;
    }
    return begin;
}

PairTable::Range PairTable::range_of(std::uint32_t wanted) const {
    const std::uint64_t found = lower_bound(Part::users, {0, users_}, wanted);
    if (found == users_ || user(found) != wanted) return {0, 0};
    return range(found);
}

std::optional<std::uint64_t> PairTable::find(std::uint32_t user, std::uint32_t wanted) const {
    const Range own = range_of(user);
    const std::uint64_t place = lower_bound(Part::items, own, wanted);
    if (place == own.end || item(place) != wanted) return std::nullopt;
    return place;
}

void PairTable::resize(std::uint64_t users, std::uint64_t pairs) {
    const std::uint64_t counts[kParts] = {users, users + 1, pairs, pairs};
    for (std::size_t i = 0; i < kParts; ++i) {
        const auto part = static_cast<Part>(i);
        // Room for all is made before any counts: where memory ends, the table is as it was.
        own(part).resize(std::max<std::size_t>(own(part).size(), counts[i] * width(part)));
        bytes_[i] = own(part).bytes().first(bytes_[i].size());
    }
    for (std::size_t i = 0; i < kParts; ++i) {
        bytes_[i] = own(static_cast<Part>(i)).bytes().first(counts[i] * width(static_cast<Part>(i)));
    }
    users_ = users;
    pairs_ = pairs;
}

std::uint64_t users_in(std::span<const Pair> pairs) {
    std::uint64_t count = 0;
    for (std::size_t i = 0; i < pairs.size(); ++i)
        count += i == 0 || pairs[i].user != pairs[i - 1].user ? 1 : 0;
    return count;
}

// From the end on, so that what is there moves up once and into room that is free.
void PairTable::insert(std::span<const Pair> pairs) {
    if (pairs.empty()) return;
    std::uint64_t new_users = 0;
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        if (i > 0 && pairs[i].user == pairs[i - 1].user) continue;
        const Range own = range_of(pairs[i].user);
        new_users += own.begin == own.end ? 1 : 0;
    }
    const std::uint64_t users_before = users_, pairs_before = pairs_;
    resize(users_before + new_users, pairs_before + pairs.size());
    users_ = users_before;  // until count_users, by which the places are found
    spread(pairs, pairs_before);
    count_users(pairs, users_before, pairs_before);
}

void PairTable::move_run(std::uint64_t from, std::uint64_t to, std::uint64_t count) {
    for (const Part part : {Part::items, Part::values}) {
        std::byte* all = own(part).bytes().data();
        std::memmove(all + to * width(part), all + from * width(part), count * width(part));
    }
}

void PairTable::spread(std::span<const Pair> pairs, std::uint64_t before) {
    std::uint64_t unmoved = before;
    for (std::size_t left = pairs.size(); left > 0; --left) {
        const Pair& pair = pairs[left - 1];
        const std::uint64_t user_number = lower_bound(Part::users, {0, users_}, pair.user);
        std::uint64_t place = number(Part::starts, user_number);
        if (user_number < users_ && user(user_number) == pair.user) {
            const std::uint64_t end = std::min<std::uint64_t>(number(Part::starts, user_number + 1), unmoved);
            place = lower_bound(Part::items, {place, end}, pair.item);
        }
        move_run(place, place + left, unmoved - place);
        put(Part::items, place + left - 1, pair.item);
        store(place + left - 1, pair.value);
        unmoved = place;
    }
}

void PairTable::count_users(std::span<const Pair> pairs, std::uint64_t users_before,
                            std::uint64_t pairs_before) {
    std::uint64_t old = users_before, old_end = pairs_before, left = pairs.size();
    std::uint64_t end = pairs_before + pairs.size();
    std::uint64_t to = bytes(Part::users).size() / sizeof(std::uint32_t);
    users_ = to;
    put(Part::starts, to, static_cast<std::uint32_t>(end));
    while (to > 0) {
        const bool from_old = old > 0 && (left == 0 || user(old - 1) >= pairs[left - 1].user);
        const std::uint32_t next = from_old ? user(old - 1) : pairs[left - 1].user;
        if (from_old) {
            const std::uint64_t begin = number(Part::starts, --old);
            end -= old_end - begin;
            old_end = begin;
        }
        for (; left > 0 && pairs[left - 1].user == next; --left) --end;
        put(Part::users, --to, next);
        put(Part::starts, to, static_cast<std::uint32_t>(end));
    }
}

}  // namespace constann
