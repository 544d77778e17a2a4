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

namespace constann::python {
namespace {

using annoy::Nodes;

[[noreturn]] void index_error(const std::string& what) {
    throw py::index_error(what);
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
    for (std::uint32_t i = 0; i < nodes.dim(); ++i) {
        const double value = PyFloat_AsDouble(PySequence_Fast_GET_ITEM(fast.ptr(), i));
        if (value == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
        if (bits) {
            if (value > 0.5) stored[i / 8] |= std::byte{1} << (i % 8);
            continue;
        }
        float narrow = 0.0f;
        kernels::with_canonical_floating_point([&] { narrow = static_cast<float>(value); });
        if (!std::isfinite(narrow)) {
            throw py::value_error("element " + std::to_string(i) + " of the vector is " +
                                  (std::isnan(value)   ? "NaN"
                                   : std::isinf(value) ? "infinite"
                                                       : "too large for float32"));
        }
        std::memcpy(&stored[i * sizeof narrow], &narrow, sizeof narrow);
    }
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

py::object search(const Nodes& nodes, std::span<const std::byte> query, std::int64_t n, std::int64_t search_k,
                  bool include_distances) {
    const auto wanted = static_cast<std::uint64_t>(std::max<std::int64_t>(n, 0));
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
    py::list far(distances.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
        PyList_SET_ITEM(far.ptr(), static_cast<py::ssize_t>(i),
                        PyFloat_FromDouble(static_cast<double>(distances[i])));
    }
    return py::make_tuple(std::move(found), std::move(far));
}

py::object search_by_item(const Nodes& nodes, std::int64_t item, std::int64_t n, std::int64_t search_k,
                          bool include_distances) {
    return search(nodes, nodes.vector_of(existing(nodes, item)), n, search_k, include_distances);
}

py::object search_by_vector(const Nodes& nodes, const py::object& vector, std::int64_t n,
                            std::int64_t search_k, bool include_distances) {
    return search(nodes, vector_of(nodes, vector), n, search_k, include_distances);
}

py::list item_vector(const Nodes& nodes, std::int64_t item) {
    const std::span<const std::byte> stored = nodes.vector_of(existing(nodes, item));
    py::list vector;
    for (std::uint32_t i = 0; i < nodes.dim(); ++i) {
        if (nodes.metric() == Metric::hamming) {
            vector.append((stored[i / 8] >> (i % 8) & std::byte{1}) != std::byte{0} ? 1.0 : 0.0);
        } else {
            float value;
            std::memcpy(&value, &stored[i * sizeof value], sizeof value);
            vector.append(static_cast<double>(value));
        }
    }
    return vector;
}

// The vector as a row for Constann: float32, or bits packed as numpy.packbits does.
py::array stored_vector(const Nodes& nodes, std::int64_t item) {
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

double distance(const Nodes& nodes, std::int64_t a, std::int64_t b) {
    const std::uint32_t one = existing(nodes, a), other = existing(nodes, b);
    float found = 0.0f;
    kernels::with_canonical_floating_point([&] { found = nodes.distance(one, other); });
    return static_cast<double>(nodes.metric() == Metric::dot ? 0.0f - found : found);
}

void build(Nodes& nodes, std::int64_t trees, const py::object& threads, const py::object& seed) {
    const auto count =
        trees < 0 ? std::nullopt : std::optional<std::uint32_t>(static_cast<std::uint32_t>(trees));
    const unsigned thread_count = threads_of(threads);
    const std::uint64_t seed_value = unsigned_of(seed, "seed", 0);
    const Watch watch = watch_for(py::none());
    without_gil([&] { nodes.build(count, thread_count, seed_value, watch); });
}

struct NodeBytes {
    py::object nodes;
    std::span<const std::byte> bytes;
};

}  // namespace

void bind_annoy(py::module_& module) {
    py::class_<NodeBytes>(module, "AnnoyBytes", py::buffer_protocol()).def_buffer([](const NodeBytes& bytes) {
        return py::buffer_info(reinterpret_cast<const std::uint8_t*>(bytes.bytes.data()),
                               static_cast<py::ssize_t>(bytes.bytes.size()));
    });
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
        .def_static("from_forest", &Nodes::from_forest, py::arg("forest"))
        .def("stored_vector", &stored_vector, py::arg("item"))
        .def("bytes",
             [](const py::object& self) {
                 return py::memoryview(py::cast(NodeBytes{self, self.cast<const Nodes&>().bytes()}));
             })
        .def("add_item", &add_item, py::arg("item"), py::arg("vector"))
        .def("build", &build, py::arg("trees"), py::arg("threads"), py::arg("seed"))
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
