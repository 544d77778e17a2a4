// See format.hpp.
#include "file/format.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <utility>

#include "file/little_endian.hpp"

namespace constann::file {
namespace {

constexpr std::array<char, 8> kMagic = {'C', 'O', 'N', 'S', 'T', 'A', 'N', 'N'};
constexpr std::size_t kFixedLength = 80;
constexpr std::size_t kParameterLength = 16;
constexpr std::size_t kSectionLength = 24 + kDigestLength;
constexpr std::uint32_t kMaxParameters = 64;
constexpr std::uint32_t kMaxSections = 64;

constexpr std::pair<SectionTag, const char*> kSectionNames[] = {
    {SectionTag::rows, "rows"},
    {SectionTag::tree_roots, "tree_roots"},
    {SectionTag::split_children, "split_children"},
    {SectionTag::split_offsets, "split_offsets"},
    {SectionTag::split_planes, "split_planes"},
    {SectionTag::leaf_bounds, "leaf_bounds"},
    {SectionTag::leaf_rows, "leaf_rows"},
    {SectionTag::split_bits, "split_bits"},
    {SectionTag::codes, "codes"},
    {SectionTag::plane_codes, "plane_codes"},
    {SectionTag::node_rows, "node_rows"},
    {SectionTag::node_bounds, "node_bounds"},
    {SectionTag::links, "links"},
    {SectionTag::upper_links, "upper_links"},
    {SectionTag::id_numbers, "id_numbers"},
    {SectionTag::id_bounds, "id_bounds"},
    {SectionTag::id_text, "id_text"},
    {SectionTag::id_order, "id_order"},
    {SectionTag::pair_users, "pair_users"},
    {SectionTag::pair_starts, "pair_starts"},
    {SectionTag::pair_items, "pair_items"},
    {SectionTag::pair_values, "pair_values"}};

VectorType vector_type(Metric metric) {
    return metric == Metric::hamming ? VectorType::bits : VectorType::float32;
}

struct Writer {
    void raw(std::span<const std::byte> more) { bytes.insert(bytes.end(), more.begin(), more.end()); }
    template <class T>
    void number(T value) {
        raw(std::as_bytes(std::span(&value, 1)));
    }

    std::vector<std::byte> bytes;
};

// Reads fields one after another; past the end is an error, not a read.
struct Reader {
    template <class T>
    T number() {
        return load<T>(take(sizeof(T)).data());
    }
    std::span<const std::byte> take(std::size_t length) {
        if (left.size() < length) throw FormatError("the file ends inside its header: it is truncated");
        return std::exchange(left, left.subspan(length)).first(length);
    }

    std::span<const std::byte> left;
};

[[noreturn]] void refuse(const std::string& what, std::uint64_t value) {
    throw FormatError(what + " " + std::to_string(value));
}

template <class T>
T read_within(Reader& reader, T least, T most, const char* complaint) {
    const auto value = reader.number<T>();
    if (value < least || value > most) refuse(complaint, static_cast<std::uint64_t>(value));
    return value;
}

template <class T>
void expect(Reader& reader, T expected, const char* complaint) {
    read_within(reader, expected, expected, complaint);
}

void read_magic_and_revisions(Reader& reader) {
    const auto magic = reader.take(kMagic.size());
    if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0) {
        throw FormatError("this is not a Constann index: it does not begin with \"CONSTANN\"");
    }
    expect(reader, kFormatVersion, "this version of constann cannot read format version");
    expect(reader, kArithmeticRevision, "this version of constann does not know arithmetic revision");
    reader.number<std::uint32_t>();  // the builder revision says who made the bytes, not how to read them
    expect(reader, std::uint32_t{0}, "the header has unknown flags:");
}

// A map of pairs has no vectors: what an index says of them is 0.
void read_shape_of_pairs(Reader& reader, Header& header) {
    for (int field = 0; field < 5; ++field)
        expect(reader, std::uint32_t{0}, "the header of a map of pairs describes vectors:");
    header.rows =
        read_within(reader, std::uint64_t{0}, kMaxRows, "the header gives an impossible number of pairs:");
    expect(reader, std::uint64_t{0}, "the header of a map of pairs has a seed:");
}

void read_shape(Reader& reader, Header& header) {
    header.kind =
        read_within(reader, Kind::exact, Kind::pairs, "this version of constann does not know index kind");
    if (header.kind == Kind::pairs) return read_shape_of_pairs(reader, header);
    header.metric =
        read_within(reader, Metric::cosine, Metric::hamming, "this version of constann does not know metric");
    expect(reader, vector_type(header.metric),
           "this version of constann does not know, for this metric, vector type");
    header.ids =
        read_within(reader, IdKind::rows, IdKind::strings, "this version of constann does not know id kind");
    header.dim = read_within(reader, std::uint32_t{1}, kMaxDim, "the header gives an impossible dim:");
    const auto stride = static_cast<std::uint32_t>(row_stride(header.metric, header.dim));
    expect(reader, stride, "the header's row stride does not fit its dim:");
    header.rows =
        read_within(reader, std::uint64_t{1}, kMaxRows, "the header gives an impossible number of rows:");
    header.seed = reader.number<std::uint64_t>();
}

void read_parameters(Reader& reader, Header& header, std::uint32_t count) {
    for (std::uint32_t i = 0; i < count; ++i) {
        const auto tag = reader.number<ParameterTag>();
        expect(reader, std::uint32_t{0}, "a parameter has unknown flags:");
        header.parameters.push_back({tag, reader.number<std::uint64_t>()});
    }
}

// Sections lie in order, aligned and next to each other, so that every byte of the file is accounted for.
void read_sections(Reader& reader, Header& header, std::uint32_t count, std::uint64_t total) {
    std::uint64_t end = header_length(header) + count * kSectionLength + kDigestLength;
    for (std::uint32_t i = 0; i < count; ++i) {
        Section section{};
        section.tag = reader.number<SectionTag>();
        expect(reader, std::uint32_t{0}, "a section has unknown flags:");
        section.offset = reader.number<std::uint64_t>();
        section.length = reader.number<std::uint64_t>();
        const auto digest = reader.take(kDigestLength);
        std::copy(digest.begin(), digest.end(), section.digest.begin());
        if (section.offset != rounded_up(end, kSectionAlignment) || section.offset > total ||
            section.length > total - section.offset) {
            throw FormatError(std::string("section ") + name_of(section.tag) + " does not lie where it must");
        }
        end = section.offset + section.length;
        header.sections.push_back(section);
    }
    if (end != total) throw FormatError("the sections do not fill the file");
}

}  // namespace

void damaged(const char* what) {
    throw FormatError(std::string("the index is damaged: ") + what);
}

void place_sections(Header& header, std::span<const Content> contents) {
    header.sections.assign(contents.size(), Section{});
    std::uint64_t end = header_length(header) + kDigestLength;
    for (std::size_t i = 0; i < contents.size(); ++i) {
        header.sections[i] = {
            contents[i].tag, rounded_up(end, kSectionAlignment), contents[i].bytes.size(), {}};
        end = header.sections[i].offset + header.sections[i].length;
    }
}

std::size_t header_length(const Header& header) {
    return kFixedLength + header.parameters.size() * kParameterLength +
           header.sections.size() * kSectionLength;
}

std::uint64_t file_length(const Header& header) {
    return header.sections.back().offset + header.sections.back().length;
}

std::vector<std::byte> encode(const Header& header) {
    Writer out;
    out.raw(std::as_bytes(std::span(kMagic)));
    out.number(kFormatVersion);
    out.number(kArithmeticRevision);
    out.number(kBuilderRevision);
    out.number(std::uint32_t{0});  // flags
    out.number(header.kind);
    const bool vectors = header.kind != Kind::pairs;
    out.number(header.metric);
    out.number(vectors ? vector_type(header.metric) : VectorType{});
    out.number(header.ids);
    out.number(header.dim);
    out.number(vectors ? static_cast<std::uint32_t>(row_stride(header.metric, header.dim)) : 0u);
    out.number(header.rows);
    out.number(header.seed);
    out.number(file_length(header));
    out.number(static_cast<std::uint32_t>(header.parameters.size()));
    out.number(static_cast<std::uint32_t>(header.sections.size()));
    for (const Parameter& parameter : header.parameters) {
        out.number(parameter.tag);
        out.number(std::uint32_t{0});
        out.number(parameter.value);
    }
    for (const Section& section : header.sections) {
        out.number(section.tag);
        out.number(std::uint32_t{0});
        out.number(section.offset);
        out.number(section.length);
        out.raw(section.digest);
    }
    return std::move(out.bytes);
}

Header parse(std::span<const std::byte> file) {
    Reader reader{file};
    Header header{};
    read_magic_and_revisions(reader);
    read_shape(reader, header);
    const auto total = reader.number<std::uint64_t>();
    if (total != file.size()) {
        throw FormatError("the file has " + std::to_string(file.size()) + " bytes, its header says " +
                          std::to_string(total) + ": it is truncated or was added to");
    }
    const auto parameters = read_within(reader, std::uint32_t{0}, kMaxParameters,
                                        "the header gives an impossible number of parameters:");
    const auto sections = read_within(reader, std::uint32_t{1}, kMaxSections,
                                      "the header gives an impossible number of sections:");
    read_parameters(reader, header, parameters);
    read_sections(reader, header, sections, total);
    return header;
}

std::span<const std::byte> section(const Header& header, std::span<const std::byte> file, SectionTag tag,
                                   std::optional<std::uint64_t> length) {
    const Section* found = nullptr;
    for (const Section& section : header.sections) {
        if (section.tag != tag) continue;
        if (found) throw FormatError(std::string("section ") + name_of(tag) + " is there twice");
        found = &section;
    }
    if (!found) throw FormatError(std::string("section ") + name_of(tag) + " is missing");
    if (length && *length != found->length) {
        throw FormatError(std::string("section ") + name_of(tag) + " has " + std::to_string(found->length) +
                          " bytes, not " + std::to_string(*length));
    }
    return file.subspan(found->offset, found->length);
}

std::uint64_t parameter(const Header& header, ParameterTag tag, std::uint64_t least, std::uint64_t most) {
    const auto found = std::ranges::find(header.parameters, tag, &Parameter::tag);
    if (found == header.parameters.end())
        refuse("the header lacks parameter", static_cast<std::uint32_t>(tag));
    if (found->value < least || found->value > most) {
        refuse("the header gives parameter " + std::to_string(static_cast<std::uint32_t>(tag)) +
                   " an impossible value:",
               found->value);
    }
    return found->value;
}

float float_parameter(const Header& header, ParameterTag tag) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(parameter(header, tag, 0, UINT32_MAX)));
}

std::uint64_t code_bits(const Header& header, ParameterTag tag, std::initializer_list<std::uint64_t> known) {
    const std::uint64_t bits = parameter(header, tag, 0, UINT64_MAX);
    if (std::ranges::find(known, bits) != known.end()) return bits;
    throw FormatError("this version of constann does not know codes of " + std::to_string(bits) + " bits");
}

void check_layout(const Header& found, const Header& written) {
    const auto same_section = [](const Section& a, const Section& b) {
        return a.tag == b.tag && a.offset == b.offset && a.length == b.length;
    };
    if (found.parameters != written.parameters) throw FormatError("its parameters are not those of its kind");
    if (!std::ranges::equal(found.sections, written.sections, same_section)) {
        throw FormatError("its sections are not those of its kind, in their order");
    }
}

const char* name_of(SectionTag tag) {
    const auto* const named =
        std::ranges::find(kSectionNames, tag, &std::pair<SectionTag, const char*>::first);
    return named == std::end(kSectionNames) ? "of unknown tag" : named->second;
}

const char* name_of(Kind kind) {
    constexpr std::array kNames = {"of unknown number", "exact", "forest", "graph", "pairs"};
    const auto number = static_cast<std::size_t>(kind);
    return kNames[number < kNames.size() ? number : 0];
}

}  // namespace constann::file
