// The index file: its fixed fields, parameters and section table, written and read one field at a time over a
// span of bytes. No I/O here, no struct is ever copied to or from a file, and nothing is trusted that was
// read. docs/format.md says the same byte by byte.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/metric.hpp"

namespace constann::file {

// The bytes are not an index file this version can read; the text says what is wrong with them.
class FormatError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Says that the index is, and in what.
[[noreturn, gnu::cold]] void damaged(const char* what);

// All three are 0 until release 1.0, which refuses 0. See CHANGELOG.md for what changed.
inline constexpr std::uint32_t kFormatVersion = 0;
inline constexpr std::uint32_t kArithmeticRevision = 0;  // what searching these bytes answers
inline constexpr std::uint32_t kBuilderRevision = 0;     // what bytes a build makes

inline constexpr std::size_t kDigestLength = 32;  // SHA-256
inline constexpr std::uint64_t kSectionAlignment = 64;

enum class Kind : std::uint32_t {
    exact = 1,
    forest = 2,
    graph = 3,
    pairs = 4
};  // pairs is no index, see pairs/pair_map.hpp
enum class VectorType : std::uint32_t { float32 = 1, bits = 4 };  // 2 float16, 3 int8: reserved
enum class IdKind : std::uint32_t { rows = 0, int64 = 1, strings = 2 };

enum class ParameterTag : std::uint32_t {
    trees = 1,
    leaf_capacity = 2,
    effort = 3,
    code_bits = 4,
    code_low = 5,   // a float32's bits
    code_rate = 6,  // a float32's bits
    rerank = 7,
    plane_code_bits = 8,
    plane_code_low = 9,    // a float32's bits
    plane_code_rate = 10,  // a float32's bits
    nodes = 11,
    links = 12,
    upper_links = 13,
    rotated = 14,
    value_type = 16,
    pair_users = 17,
};
enum class SectionTag : std::uint32_t {
    rows = 1,
    id_numbers = 2,
    id_bounds = 3,
    id_text = 4,
    id_order = 5,
    tree_roots = 16,
    split_children = 17,
    split_offsets = 18,
    split_planes = 19,
    leaf_bounds = 20,
    leaf_rows = 21,
    split_bits = 22,
    codes = 23,
    plane_codes = 24,
    node_rows = 32,
    node_bounds = 33,
    links = 34,
    upper_links = 35,  // 36 to 47: for rows added to and removed from a built graph
    pair_users = 48,
    pair_starts = 49,
    pair_items = 50,
    pair_values = 51,
};

struct Parameter {
    ParameterTag tag;
    std::uint64_t value;

    bool operator==(const Parameter&) const = default;
};

struct Section {
    SectionTag tag;
    std::uint64_t offset;
    std::uint64_t length;
    std::array<std::byte, kDigestLength> digest;
};

struct Header {
    Kind kind;
    Metric metric;  // this and what follows, up to rows, is 0 for pairs
    IdKind ids;
    std::uint32_t dim;
    std::uint64_t rows;
    std::uint64_t seed;
    std::vector<Parameter> parameters;
    std::vector<Section> sections;
};

// A section's content before it has a place in a file.
struct Content {
    SectionTag tag;
    std::span<const std::byte> bytes;
};

// Places the contents one after another behind the header, each aligned: fills in offsets and lengths.
void place_sections(Header& header, std::span<const Content> contents);

// Length of the encoded header without its own digest, which follows it.
std::size_t header_length(const Header& header);

// Length of the whole file.
std::uint64_t file_length(const Header& header);

// The header's bytes, without its own digest.
std::vector<std::byte> encode(const Header& header);

// Reads and checks the header of a whole file. Throws FormatError. The header's digest, which follows the
// header, is the opener's to check: the core computes no SHA-256.
Header parse(std::span<const std::byte> file);

// The bytes of a section, which must be there exactly once and have `length` bytes; throws FormatError.
std::span<const std::byte> section(const Header& header, std::span<const std::byte> file, SectionTag tag,
                                   std::optional<std::uint64_t> length = {});

// The value of a parameter between `least` and `most`; throws FormatError.
std::uint64_t parameter(const Header& header, ParameterTag tag, std::uint64_t least, std::uint64_t most);

float float_parameter(const Header& header, ParameterTag tag);

// The value of a parameter that is a width of codes, one of those `known`; throws FormatError.
std::uint64_t code_bits(const Header& header, ParameterTag tag, std::initializer_list<std::uint64_t> known);

// A file may hold nothing but what its kind writes, in the same places: what it says twice, or besides, would
// be read by nobody or lost on saving. Throws FormatError.
void check_layout(const Header& found, const Header& written);

const char* name_of(SectionTag tag);
const char* name_of(Kind kind);

}  // namespace constann::file
