// Bindings of Annoy's nodes. What users see of them is python/constann/annoy.py, which opens and saves.
#include "python/annoy_module.hpp"

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "annoy/nodes.hpp"
#include "kernels/floating_point.hpp"
#include "python/arrays.hpp"
#include "python/calls.hpp"
#include "python/finished_instances.hpp"
#include "python/sections.hpp"

namespace constann::python {
namespace {

using annoy::Nodes;

[[noreturn]] void index_error(const std::string& what) {
    throw py::index_error(what);
}

void read_elements(const Nodes& nodes, const py::object& fast, std::vector<std::byte>& stored) {
    for (std::uint32_t i = 0; i < nodes.dim(); ++i) {
        // Converting an element may run Python, which may shorten a list.
        if (PySequence_Fast_GET_SIZE(fast.ptr()) <= static_cast<py::ssize_t>(i))
            throw py::value_error("the vector changed while it was read");
        const auto element = py::reinterpret_borrow<py::object>(
            PySequence_Fast_GET_ITEM(fast.ptr(), static_cast<py::ssize_t>(i)));
        const double value = PyFloat_AsDouble(element.ptr());
        if (value == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
        if (nodes.metric() == Metric::hamming) {
            if (value > 0.5) stored[i / 8] |= std::byte{1} << (i % 8);
            continue;
        }
        const float narrow = static_cast<float>(value);
        if (!std::isfinite(narrow)) {
            throw py::value_error("element " + std::to_string(i) + " of the vector is " +
                                  (std::isnan(value)   ? "NaN"
                                   : std::isinf(value) ? "infinite"
                                                       : "too large for float32"));
        }
        std::memcpy(&stored[i * sizeof narrow], &narrow, sizeof narrow);
    }
}

py::list list_of(std::span<const double> values) {
    py::list all(values.size());
    for (std::size_t i = 0; i < values.size(); ++i)
        PyList_SET_ITEM(all.ptr(), static_cast<py::ssize_t>(i), PyFloat_FromDouble(values[i]));
    return all;
}

// Python's floats of these; under the guard, as a CPU that flushes denormals does so in widening them too.
template <class Convert>
py::list converted(std::span<const float> values, const Convert& convert) {
    std::vector<double> wide(values.size());
    kernels::with_canonical_floating_point([&] {
        for (std::size_t i = 0; i < values.size(); ++i) wide[i] = convert(static_cast<double>(values[i]));
    });
    return list_of(wide);
}

py::list widened(std::span<const float> values) {
    return converted(values, [](double value) { return value; });
}

using Floats = py::array_t<float, py::array::c_style>;

std::span<const float> span_of(const Floats& array) {
    return {array.data(), static_cast<std::size_t>(array.size())};
}

// A Constann index's distances in Annoy's terms: angular ones are sqrt(2 - 2 cos), dot is the product itself.
py::list annoy_distances(const std::string& metric, const Floats& distances) {
    switch (metric_of(metric)) {
        case Metric::cosine:
            return converted(span_of(distances), [](double distance) { return std::sqrt(2.0 * distance); });
        case Metric::dot:
            return converted(span_of(distances), [](double distance) { return 0.0 - distance; });
        default:
            return widened(span_of(distances));
    }
}

// A sequence of numbers, as Annoy takes it, in Annoy's form: float32, or for hamming words whose bit e is
// whether element e is above 0.5.
std::vector<std::byte> vector_of(const Nodes& nodes, const py::object& vector) {
    const py::ssize_t length = PyObject_Size(vector.ptr());
    if (length < 0) throw py::error_already_set();
    if (length != static_cast<py::ssize_t>(nodes.dim())) {
        index_error("Vector has wrong length (expected " + std::to_string(nodes.dim()) + ", got " +
                    std::to_string(length) + ")");
    }
    const bool bits = nodes.metric() == Metric::hamming;
    std::vector<std::byte> stored(bits ? row_stride(nodes.metric(), nodes.dim())
                                       : nodes.dim() * sizeof(float));
    const py::object fast =
        py::reinterpret_steal<py::object>(PySequence_Fast(vector.ptr(), "a vector is a sequence"));
    if (!fast) throw py::error_already_set();
    // Also what turns elements into C's numbers is under the guard: numpy's scalars are widened there.
    kernels::with_canonical_floating_point([&] { read_elements(nodes, fast, stored); });
    return stored;
}

std::uint32_t existing(const Nodes& nodes, std::int64_t item) {
    if (item < 0) index_error("Item index can not be negative");
    if (item >= nodes.items()) index_error("Item index larger than the largest item index");
    const auto number = static_cast<std::uint32_t>(item);
    if (!nodes.is_item(number))
        index_error("Item " + std::to_string(item) + " was never added: it is a hole between others");
    return number;
}

void add_item(Nodes& nodes, std::int64_t item, const py::object& vector) {
    if (item < 0) index_error("Item index can not be negative");
    if (item >= INT32_MAX / 2) index_error("Item index " + std::to_string(item) + " is too large");
    const std::vector<std::byte> stored = vector_of(nodes, vector);
    kernels::with_canonical_floating_point([&] { nodes.add_item(static_cast<std::uint32_t>(item), stored); });
}

py::object nearest_items(const Nodes& nodes, std::span<const std::byte> query, std::int64_t n,
                         std::int64_t search_k, bool include_distances) {
    const auto wanted =
        std::min(static_cast<std::uint64_t>(std::max<std::int64_t>(n, 0)), std::uint64_t{nodes.items()});
    const std::uint64_t effort = search_k < 0 ? wanted * nodes.trees() : static_cast<std::uint64_t>(search_k);
    annoy::Items items;
    std::vector<float> distances;
    without_gil([&] {
        kernels::with_canonical_floating_point(
            [&] { nodes.search(query, wanted, effort, items, distances); });
    });
    py::list found(items.size());
    for (std::size_t i = 0; i < items.size(); ++i)
        PyList_SET_ITEM(found.ptr(), static_cast<py::ssize_t>(i), PyLong_FromLong(items[i]));
    if (!include_distances) return found;
    return py::make_tuple(std::move(found), widened(distances));
}

py::object search_by_item(const Nodes& nodes, std::int64_t item, std::int64_t n, std::int64_t search_k,
                          bool include_distances) {
    const Reading reading = nodes.reading();
    return nearest_items(nodes, nodes.vector_of(existing(nodes, item)), n, search_k, include_distances);
}

py::object search_by_vector(const Nodes& nodes, const py::object& vector, std::int64_t n,
                            std::int64_t search_k, bool include_distances) {
    const std::vector<std::byte> query = vector_of(nodes, vector);
    const Reading reading = nodes.reading();
    return nearest_items(nodes, query, n, search_k, include_distances);
}

py::list item_vector(const Nodes& nodes, std::int64_t item) {
    const Reading reading = nodes.reading();
    const std::span<const std::byte> stored = nodes.vector_of(existing(nodes, item));
    if (nodes.metric() != Metric::hamming) {
        std::vector<float> values(nodes.dim());
        std::memcpy(values.data(), stored.data(), stored.size());
        return widened(values);
    }
    std::vector<double> bits(nodes.dim());
    for (std::uint32_t i = 0; i < nodes.dim(); ++i)
        bits[i] = (stored[i / 8] >> (i % 8) & std::byte{1}) != std::byte{0} ? 1.0 : 0.0;
    return list_of(bits);
}

// The vector as a row for Constann: float32, or bits packed as numpy.packbits does.
py::array stored_vector(const Nodes& nodes, std::int64_t item) {
    const Reading reading = nodes.reading();
    const std::span<const std::byte> stored = nodes.vector_of(existing(nodes, item));
    if (nodes.metric() != Metric::hamming) {
        py::array_t<float> row(static_cast<py::ssize_t>(nodes.dim()));
        std::memcpy(row.mutable_data(), stored.data(), stored.size());
        return row;
    }
    py::array_t<std::uint8_t> row(static_cast<py::ssize_t>(columns_of(nodes.metric(), nodes.dim())));
    std::memset(row.mutable_data(), 0, static_cast<std::size_t>(row.nbytes()));
    for (std::uint32_t i = 0; i < nodes.dim(); ++i) {
        if ((stored[i / 8] >> (i % 8) & std::byte{1}) != std::byte{0}) {
            row.mutable_data()[i / 8] =
                static_cast<std::uint8_t>(row.mutable_data()[i / 8] | (0x80u >> (i % 8)));
        }
    }
    return row;
}

py::float_ distance(const Nodes& nodes, std::int64_t a, std::int64_t b) {
    const Reading reading = nodes.reading();
    const std::uint32_t one = existing(nodes, a), other = existing(nodes, b);
    double found = 0.0;
    kernels::with_canonical_floating_point([&] {
        const float distance = nodes.distance(one, other);
        found = static_cast<double>(nodes.metric() == Metric::dot ? 0.0f - distance : distance);
    });
    return py::float_(found);
}

void build_trees(Nodes& nodes, std::int64_t trees, const py::object& threads, const py::object& seed) {
    const auto count =
        trees < 0 ? std::nullopt : std::optional<std::uint32_t>(static_cast<std::uint32_t>(trees));
    const unsigned thread_count = threads_of(threads);
    const std::uint64_t seed_value = unsigned_of(seed, "seed", 0);
    const Watch watch = watch_for(py::none());
    without_gil([&] { nodes.build(count, thread_count, seed_value, watch); });
}

std::unique_ptr<Nodes> from_forest(const Forest& forest) {
    const Watch watch = watch_for(py::none());
    std::unique_ptr<Nodes> nodes;
    without_gil([&] { nodes = Nodes::from_forest(forest, watch); });
    return nodes;
}

}  // namespace

void bind_annoy(py::module_& module) {
    module.def("annoy_distances", &annoy_distances, py::arg("metric"), py::arg("distances").noconvert());
    module.def(
        "annoy_vector", [](const Floats& row) { return widened(span_of(row)); }, py::arg("row").noconvert());
    py::class_<Nodes>(module, "AnnoyNodes")
        .def(py::init([](const std::string& metric, const py::object& dim) {
                 return std::make_unique<Nodes>(metric_of(metric), dim_of(dim));
             }),
             py::arg("metric"), py::arg("dim"))
        .def(py::init([](const std::string& metric, const py::object& dim, const py::object& buffer) {
                 const auto bytes = std::make_shared<const Bytes>(buffer);
                 return std::make_unique<Nodes>(metric_of(metric), dim_of(dim), bytes->span(), bytes);
             }),
             py::arg("metric"), py::arg("dim"), py::arg("buffer"))
        .def_static("from_forest", &from_forest, py::arg("forest"))
        .def("stored_vector", &stored_vector, py::arg("item"))
        .def("bytes",
             [](const py::object& self) {
                 const Nodes& nodes = self.cast<const Nodes&>();
                 auto reading = std::make_shared<const Reading>(nodes.reading());
                 return py::memoryview(py::cast(SectionBytes{self, nodes.bytes(), std::move(reading)}));
             })
        .def("add_item", &add_item, py::arg("item"), py::arg("vector"))
        .def("build", &build_trees, py::arg("trees"), py::arg("threads"), py::arg("seed"))
        .def("unbuild", &Nodes::unbuild)
        .def("search_by_item", &search_by_item)
        .def("search_by_vector", &search_by_vector)
        .def("item_vector", &item_vector, py::arg("item"))
        .def("distance", &distance, py::arg("a"), py::arg("b"))
        .def_property_readonly("packed", &Nodes::packed)
        .def_property_readonly("items", &Nodes::items)
        .def_property_readonly("trees", &Nodes::trees);
}

}  // namespace constann::python
