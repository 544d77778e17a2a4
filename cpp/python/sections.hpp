// What goes into a file, as Python takes it: the sections' bytes without a copy, and the header. For whatever
// has header() and contents().
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/access.hpp"
#include "file/format.hpp"

namespace constann::python {

namespace py = pybind11;

// The bytes of a section, exported through the buffer protocol without a copy; they keep their owner alive,
// and unchanged where they come with a reading of it.
struct SectionBytes {
    py::object owner;
    std::span<const std::byte> bytes;
    std::shared_ptr<const Reading> reading = nullptr;
};

inline py::buffer_info export_bytes(const SectionBytes& section) {
    return py::buffer_info(reinterpret_cast<const std::uint8_t*>(section.bytes.data()),
                           static_cast<py::ssize_t>(section.bytes.size()));
}

// The sections a file of this holds, as (name, bytes), in the order of the file.
template <class Owner>
py::list contents(const py::object& self) {
    py::list all;
    for (const file::Content& content : self.cast<const Owner&>().contents()) {
        all.append(py::make_tuple(file::name_of(content.tag),
                                  py::memoryview(py::cast(SectionBytes{self, content.bytes}))));
    }
    return all;
}

// The offset of each section, and the header's bytes with the sections' digests filled in.
template <class Owner>
py::tuple encode_header(const Owner& owner, const std::vector<std::string>& digests) {
    file::Header header = owner.header();
    if (digests.size() != header.sections.size())
        throw py::value_error("one digest is needed for each section");
    std::vector<std::uint64_t> offsets;
    for (std::size_t i = 0; i < digests.size(); ++i) {
        if (digests[i].size() != file::kDigestLength) throw py::value_error("a digest has 32 bytes");
        std::memcpy(header.sections[i].digest.data(), digests[i].data(), file::kDigestLength);
        offsets.push_back(header.sections[i].offset);
    }
    const std::vector<std::byte> bytes = file::encode(header);
    return py::make_tuple(offsets, py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

}  // namespace constann::python
