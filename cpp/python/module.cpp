// The extension module constann._core: thin bindings of the core. It opens no file and prints nothing; the
// package around it (python/constann) does. `search` is called by users as it stands here, with no Python
// frame between.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "annoy/nodes.hpp"
#include "exact/exact.hpp"
#include "forest/forest.hpp"
#include "graph/graph.hpp"
#include "kernels/cpu_features.hpp"
#include "kernels/dispatch.hpp"
#include "kernels/floating_point.hpp"
#include "python/annoy_module.hpp"
#include "python/arrays.hpp"
#include "python/build_facts.hpp"
#include "python/calls.hpp"
#include "python/finished_instances.hpp"
#include "python/pairs_module.hpp"
#include "python/sections.hpp"

namespace py = pybind11;

namespace constann::python {
namespace {

void add(Index& index, const py::object& vectors, const py::object& ids) {
    const Array rows = rows_of(vectors, "vectors", false);
    check_element_type(index.metric(), rows.matrix);
    const KeptIds given(ids, "ids");
    without_gil([&] { index.add(rows.matrix, given.ids()); });
}

void build(Index& index, const py::object& threads, const py::object& seed, const py::object& progress) {
    const unsigned thread_count = threads_of(threads);
    const std::uint64_t seed_value = unsigned_of(seed, "seed", 0);
    const Watch watch = watch_for(progress);
    without_gil([&] { index.build(thread_count, seed_value, watch); });
}

py::tuple search(const Index& index, const py::object& queries, const py::object& k, const py::object& effort,
                 const py::object& threads, const py::object& allowed, const py::object& exclude) {
    const std::uint64_t wanted = unsigned_of(k, "k", 1, PY_SSIZE_T_MAX / 8);
    const Array array = rows_of(queries, "queries", true);
    check_element_type(index.metric(), array.matrix);
    const KeptIds only(allowed, "allowed"), without(exclude, "exclude");
    const std::uint64_t count = array.matrix.rows;
    const unsigned thread_count = threads.is_none() && count <= 1 ? 1 : threads_of(threads);
    if (wanted > static_cast<std::uint64_t>(PY_SSIZE_T_MAX) / 8 / std::max<std::uint64_t>(count, 1)) {
        throw py::value_error("k is too large: " + std::to_string(wanted));
    }
    py::array_t<std::int64_t> ids({static_cast<py::ssize_t>(count), static_cast<py::ssize_t>(wanted)});
    py::array_t<float> distances({static_cast<py::ssize_t>(count), static_cast<py::ssize_t>(wanted)});
    const SearchRequest request{array.matrix, wanted,        optional_unsigned_of(effort, "effort", 1),
                                thread_count, only.filter(), without.filter()};
    const std::span<std::int64_t> id_span(ids.mutable_data(), static_cast<std::size_t>(ids.size()));
    const std::span<float> distance_span(distances.mutable_data(),
                                         static_cast<std::size_t>(distances.size()));
    const Watch watch = watch_for(py::none());
    without_gil([&] { index.search(request, watch, id_span, distance_span); });
    return py::make_tuple(std::move(ids), std::move(distances));
}

// Held while something is read of an index, which may be one that another thread still fills.
std::optional<Reading> reading_of(const Index& index) {
    return index.built() ? std::nullopt : std::optional<Reading>(index.reading());
}

std::uint64_t tune(const Graph& graph, const py::object& queries, double recall, const py::object& k,
                   const py::object& threads) {
    const std::uint64_t wanted = unsigned_of(k, "k", 1, 1 << 20);
    const Array array = rows_of(queries, "queries", true);
    check_element_type(graph.metric(), array.matrix);
    if (!(recall > 0 && recall <= 1)) throw py::value_error("recall must be above 0 and at most 1");
    if (array.matrix.rows == 0) throw py::value_error("queries hold no rows: give some to tune by");
    const unsigned thread_count = threads_of(threads);
    const Watch watch = watch_for(py::none());
    std::uint64_t effort = 0;
    without_gil([&] { effort = graph.tune(array.matrix, wanted, recall, thread_count, watch); });
    return effort;
}

// The rows that have these ids; raises KeyError for an id that no row has.
py::array_t<std::int64_t> rows_with(const Index& index, const py::object& ids) {
    const KeptIds wanted(ids, "ids");
    const GivenIds given = wanted.ids();
    const auto reading = reading_of(index);
    if (!index.built() && index.ids().kind() != file::IdKind::rows)
        throw py::value_error("the index is not built: ids can be looked up after build()");
    std::vector<std::int64_t> rows;
    const auto look_up = [&](const auto& each, const py::object& name) {
        const auto row = index.ids().row_of(each, index.size());
        if (!row) throw py::key_error("no row has the id " + py::repr(name).cast<std::string>());
        rows.push_back(*row);
    };
    if (const auto* numbers = std::get_if<1>(&given)) {
        for (const std::int64_t id : *numbers) look_up(id, py::int_(id));
    } else if (const auto* labels = std::get_if<2>(&given)) {
        for (const std::string_view label : *labels) look_up(label, py::str(label.data(), label.size()));
    }
    return py::array_t<std::int64_t>(static_cast<py::ssize_t>(rows.size()), rows.data());
}

// The string ids of these rows, None for -1.
py::list labels_of(const Index& index, const py::array_t<std::int64_t, py::array::c_style>& rows) {
    const auto reading = reading_of(index);
    if (index.ids().kind() != file::IdKind::strings) throw py::value_error("this index has no string ids");
    py::list all;
    const std::int64_t* numbers = rows.data();
    for (py::ssize_t i = 0; i < rows.size(); ++i) {
        if (numbers[i] == -1) {
            all.append(py::none());
        } else if (numbers[i] < 0 || static_cast<std::uint64_t>(numbers[i]) >= index.size()) {
            throw py::index_error("there is no row " + std::to_string(numbers[i]));
        } else {
            const std::string_view label = index.ids().label_of(static_cast<std::uint64_t>(numbers[i]));
            PyObject* text =
                PyUnicode_DecodeUTF8(label.data(), static_cast<py::ssize_t>(label.size()), nullptr);
            if (text == nullptr) {
                PyErr_Clear();
                throw file::FormatError("the index is damaged: a string id is not UTF-8");
            }
            all.append(py::reinterpret_steal<py::object>(text));
        }
    }
    return all;
}

// The id a search would return for every row.
py::array_t<std::int64_t> all_ids(const Index& index) {
    const auto reading = reading_of(index);
    py::array_t<std::int64_t> ids(static_cast<py::ssize_t>(index.size()));
    for (std::uint64_t row = 0; row < index.size(); ++row) {
        ids.mutable_data()[row] = index.ids().id_of(static_cast<std::uint32_t>(row));
    }
    return ids;
}

// The stored rows of these numbers, which exist: float32, or packed bits.
py::array stored_rows(const Index& index, const py::array_t<std::int64_t, py::array::c_style>& rows) {
    const auto reading = reading_of(index);
    const bool bits = index.metric() == Metric::hamming;
    const auto columns = static_cast<py::ssize_t>(columns_of(index.metric(), index.dim()));
    py::array out(bits ? py::dtype::of<std::uint8_t>() : py::dtype::of<float>(), {rows.size(), columns});
    const auto length = static_cast<std::size_t>(columns) * (bits ? 1 : sizeof(float));
    auto* to = static_cast<std::byte*>(out.mutable_data());
    for (py::ssize_t i = 0; i < rows.size(); ++i) {
        const auto row = static_cast<std::uint64_t>(rows.data()[i]);
        if (row >= index.size()) throw py::index_error("there is no row " + std::to_string(rows.data()[i]));
        std::memcpy(to + static_cast<std::size_t>(i) * length, index.rows()[row], length);
    }
    return out;
}

// Puts the rows into a writable buffer from `offset` on, where those added so far are already.
void place_rows(Index& index, const py::object& buffer, std::size_t offset) {
    const auto bytes = std::make_shared<Bytes>(buffer, PyBUF_WRITABLE);
    const std::span<std::byte> all = bytes->writable();
    if (offset > all.size()) throw py::value_error("the rows begin past the end of the buffer");
    index.place_rows(all.subspan(offset), bytes);
}

// Makes a writable buffer, where the rows lie from `rows_at` on, the index's whole file; see
// Index::become_file.
void become_file(Index& index, const py::object& buffer, std::size_t rows_at, const py::bytes& head) {
    const auto bytes = std::make_shared<Bytes>(buffer, PyBUF_WRITABLE);
    const std::string_view begin = head;
    index.become_file(bytes->writable(), rows_at, std::as_bytes(std::span(begin)), bytes);
}

void reopen(Index& index, const py::object& buffer) {
    const auto bytes = std::make_shared<const Bytes>(buffer);
    index.reopen(bytes->span(), bytes);
}

// The header's length, and (name, offset, length, digest) of each section.
py::tuple inspect(const py::object& buffer) {
    const Bytes bytes(buffer);
    const file::Header header = file::parse(bytes.span());
    py::list sections;
    for (const file::Section& section : header.sections) {
        sections.append(py::make_tuple(
            file::name_of(section.tag), section.offset, section.length,
            py::bytes(reinterpret_cast<const char*>(section.digest.data()), section.digest.size())));
    }
    return py::make_tuple(file::header_length(header), file::name_of(header.kind), sections);
}

// Opens the index in `buffer`, which stays alive and exported as long as the index does.
template <class Kind>
std::unique_ptr<Kind> open_kind(const py::object& buffer) {
    const auto bytes = std::make_shared<const Bytes>(buffer);
    std::unique_ptr<Index> index = constann::open(bytes->span(), bytes);
    if (dynamic_cast<Kind*>(index.get()) == nullptr)
        throw file::FormatError("the file holds another kind of index");
    return std::unique_ptr<Kind>(static_cast<Kind*>(index.release()));
}

// Every kernel set: its name, what it is, and the first feature it needs that this CPU lacks (or "").
py::list implementations() {
    py::list all;
    for (const kernels::Implementation& each : kernels::implementations()) {
        all.append(py::make_tuple(each.table->name, each.description, kernels::missing_feature(each)));
    }
    return all;
}

kernels::Kernel kernel_named(const kernels::KernelTable& table, const std::string& function) {
    if (function == "inner_product") return table.inner_product;
    if (function == "squared_euclidean") return table.squared_euclidean;
    if (function == "manhattan") return table.manhattan;
    if (function == "hamming") return table.hamming;
    throw py::value_error("there is no kernel '" + function + "'");
}

// The raw answers of one kernel, for known-answer tests: float32 rows whose length is a multiple of 16.
py::array_t<float> kernel_answers(const std::string& kernels, const std::string& function,
                                  const py::array_t<float, py::array::c_style>& query,
                                  const py::array_t<float, py::array::c_style>& rows, bool many) {
    const kernels::Kernel kernel = kernel_named(kernels::named(kernels), function);
    if (query.ndim() != 1 || rows.ndim() != 2 || rows.shape(1) != query.shape(0) ||
        query.shape(0) % 16 != 0) {
        throw py::value_error("query (floats,) and rows (n, floats), floats a multiple of 16");
    }
    const auto floats = static_cast<std::size_t>(query.shape(0));
    const auto* query_bytes = reinterpret_cast<const std::byte*>(query.data());
    const std::size_t length = floats * sizeof(float);
    const RowsView view(
        {reinterpret_cast<const std::byte*>(rows.data()), static_cast<std::size_t>(rows.nbytes())}, length);
    py::array_t<float> results(rows.shape(0));
    float* out = results.mutable_data();
    std::vector<const std::byte*> addresses;
    for (py::ssize_t i = 0; i < rows.shape(0); ++i) addresses.push_back(view[static_cast<std::uint64_t>(i)]);
    kernels::with_canonical_floating_point([&] {
        if (many) {
            kernel.many(query_bytes, addresses.data(), addresses.size(), length, out);
        } else {
            for (std::size_t i = 0; i < addresses.size(); ++i)
                out[i] = kernel.one(query_bytes, addresses[i], length);
        }
    });
    return results;
}

kernels::ManyCodes code_kernel_named(const kernels::KernelTable& table, const std::string& function) {
    if (function == "inner_product") return table.code_inner_product;
    if (function == "squared_euclidean") return table.code_squared_euclidean;
    if (function == "manhattan") return table.code_manhattan;
    if (function == "half_inner_product") return table.half_code_inner_product;
    if (function == "half_squared_euclidean") return table.half_code_squared_euclidean;
    throw py::value_error("there is no kernel of codes '" + function + "'");
}

// The raw answers of a kernel of codes, for known-answer tests: uint8 rows whose length is a multiple of 32,
// of 0 to 127, or of two codes of 4 bits for a query twice as long; the query's elements are read as signed
// for the inner product.
py::array_t<std::uint32_t> code_answers(const std::string& kernels, const std::string& function,
                                        const py::array_t<std::uint8_t, py::array::c_style>& query,
                                        const py::array_t<std::uint8_t, py::array::c_style>& rows) {
    const kernels::ManyCodes kernel = code_kernel_named(kernels::named(kernels), function);
    const py::ssize_t elements = function.starts_with("half") ? 2 : 1;
    if (query.ndim() != 1 || rows.ndim() != 2 || rows.shape(1) * elements != query.shape(0) ||
        rows.shape(1) % 32 != 0) {
        throw py::value_error("query (codes,) and rows (n, codes), codes a multiple of 32");
    }
    const auto length = static_cast<std::size_t>(rows.shape(1));
    std::vector<const std::byte*> addresses;
    for (py::ssize_t i = 0; i < rows.shape(0); ++i) {
        addresses.push_back(reinterpret_cast<const std::byte*>(rows.data()) +
                            static_cast<std::size_t>(i) * length);
    }
    py::array_t<std::uint32_t> results(rows.shape(0));
    kernel(reinterpret_cast<const std::byte*>(query.data()), addresses.data(), addresses.size(), length,
           results.mutable_data());
    return results;
}

constexpr const char* kSearchDoc = R"(Find the k nearest rows of each query.

Parameters
----------
queries : array, shape (q, dim) or (dim,)
    float16, float32, float64, int8, uint8, int16 or uint16, any strides.
k : int
    Neighbours wanted, at least 1.
effort : int, optional
    Trades time for recall, in the kind's own unit: for a forest the candidates that its trees offer before they
    are scored (more, until k different rows are met; the default is stored in the index). An exact index takes none.
threads : int, optional
    At most so many threads; None means the CPUs this process may use. The answer does not depend on it.
allowed, exclude : array, optional
    Which rows may be returned: all of `allowed`, none of `exclude`. Either a bool array with one element for each
    row, or ids (int64, or strings where the index has those); ids that no row has are ignored.

Returns
-------
ids : int64 array, shape (q, k)
    The rows' int64 ids where they have some, otherwise row numbers (see `Index.labels`), nearest first; equal
    distances come in the order of rows. Padded with -1.
distances : float32 array, shape (q, k)
    Padded with +inf.

Raises
------
ValueError
    The index is not built, k or effort is below 1, the shape does not fit, or a query holds NaN or infinity
    (named by row and column).
TypeError
    The dtype is not accepted.
FileFormatError
    The index was opened from a damaged file.
)";

void bind_kernels(py::module_& module) {
    module.def("kernel_implementations", &implementations);
    module.def("kernel_in_use", [] { return std::string(kernels::active().name); });
    module.def("use_kernels", [](const std::string& name) { kernels::use(name); });
    module.def("use_fastest_kernels", &kernels::use_fastest);
    module.def("cpu_features", &kernels::cpu_features);
    module.def("code_answers", &code_answers, py::arg("kernels"), py::arg("function"),
               py::arg("query").noconvert(), py::arg("rows").noconvert());
    module.def("kernel_answers", &kernel_answers, py::arg("kernels"), py::arg("function"),
               py::arg("query").noconvert(), py::arg("rows").noconvert(), py::arg("many"));
}

void bind_indexes(py::module_& module) {
    py::class_<SectionBytes>(module, "SectionBytes", py::buffer_protocol()).def_buffer(&export_bytes);
    py::class_<Index>(module, "Index")
        .def("_add", &add, py::arg("vectors"), py::arg("ids"))
        .def("_build", &build, py::arg("threads"), py::arg("seed"), py::arg("progress"))
        .def("search", &search, py::arg("queries"), py::arg("k") = 10, py::arg("effort") = py::none(),
             py::arg("threads") = py::none(), py::arg("allowed") = py::none(),
             py::arg("exclude") = py::none(), kSearchDoc)
        .def("_contents", &contents<Index>)
        .def("_encode_header", &encode_header<Index>, py::arg("digests"))
        .def("_place_rows", &place_rows, py::arg("buffer"), py::arg("offset"))
        .def("_become_file", &become_file, py::arg("buffer"), py::arg("rows_at"), py::arg("head"))
        .def("_reopen", &reopen, py::arg("buffer"))
        .def("_publish", &Index::publish)
        .def_property_readonly("_settling", &Index::settling)
        .def_property_readonly("_stride", &Index::stride)
        .def("_rows_with", &rows_with, py::arg("ids"))
        .def("_labels", &labels_of, py::arg("rows"))
        .def("_ids", &all_ids)
        .def_property_readonly("_greatest_id",
                               [](const Index& index) {
                                   const auto reading = reading_of(index);
                                   return index.size() == 0 ? -1 : index.ids().greatest(index.size());
                               })
        .def("_stored_rows", &stored_rows, py::arg("rows"))
        .def_property_readonly("_id_kind",
                               [](const Index& index) { return static_cast<int>(index.ids().kind()); })
        .def("__len__", &Index::size)
        .def_property_readonly("dim", &Index::dim, "Elements of a vector; for hamming, bits.")
        .def_property_readonly(
            "metric", [](const Index& index) { return name_of(index.metric()); }, "Name of the metric.")
        .def_property_readonly("seed", &Index::seed, "Seed of the build.")
        .def_property_readonly("built", &Index::built, "Whether build() is done.");
    py::class_<Exact, Index>(module, "Exact")
        .def(py::init([](const py::object& dim, const std::string& metric) {
                 return std::make_unique<Exact>(dim_of(dim), metric_of(metric));
             }),
             py::arg("dim"), py::arg("metric"))
        .def(py::init(&open_kind<Exact>), py::arg("buffer"));
    py::class_<Forest, Index>(module, "Forest")
        .def(py::init([](const py::object& dim, const std::string& metric, const py::object& trees,
                         const py::object& effort, const py::object& code_bits) {
                 return std::make_unique<Forest>(dim_of(dim), metric_of(metric),
                                                 optional_unsigned_of(trees, "trees", 1),
                                                 optional_unsigned_of(effort, "effort", 1),
                                                 optional_unsigned_of(code_bits, "code_bits", 0));
             }),
             py::arg("dim"), py::arg("metric"), py::arg("trees"), py::arg("effort"), py::arg("code_bits"))
        .def(py::init(&open_kind<Forest>), py::arg("buffer"))
        .def(py::init([](const annoy::Nodes& nodes) {
                 const Reading reading = nodes.reading();
                 const Watch watch = watch_for(py::none());
                 std::unique_ptr<Forest> forest;
                 without_gil([&] { forest = nodes.to_forest(watch); });
                 return forest;
             }),
             py::arg("nodes"))
        .def_property_readonly("trees", &Forest::trees, "Number of trees.")
        .def_property_readonly("effort", &Forest::effort, "Candidates a search gathers by default.")
        .def_property_readonly("code_bits", &Forest::code_bits,
                               "Width of the integers that a search compares first; 0 where there are none.")
        .def_property_readonly("leaf_capacity", &Forest::capacity, "The most rows a leaf holds.");
    py::class_<Graph, Index>(module, "Graph")
        .def(py::init([](const py::object& dim, const std::string& metric, const py::object& effort,
                         const py::object& code_bits) {
                 return std::make_unique<Graph>(dim_of(dim), metric_of(metric),
                                                optional_unsigned_of(effort, "effort", 1),
                                                optional_unsigned_of(code_bits, "code_bits", 0));
             }),
             py::arg("dim"), py::arg("metric"), py::arg("effort"), py::arg("code_bits"))
        .def(py::init(&open_kind<Graph>), py::arg("buffer"))
        .def("_tune", &tune, py::arg("queries"), py::arg("recall"), py::arg("k"), py::arg("threads"))
        .def_property_readonly("effort", &Graph::effort, "Nodes a search keeps in view by default.")
        .def_property_readonly("code_bits", &Graph::code_bits,
                               "Width of the integers that a search compares first; 0 where there are none.")
        .def_property_readonly("rotated", &Graph::rotated, "Whether rows are rotated before they get codes.")
        .def_property_readonly("nodes", &Graph::nodes, "Rows, with those of the same codes counted once.");
}

}  // namespace
}  // namespace constann::python

PYBIND11_MODULE(_core, module) {
    using namespace constann;
    module.doc() = "The C++ core of constann; use the package, not this module.";
    py::register_local_exception<file::FormatError>(module, "FileFormatError", PyExc_ValueError);
    module.def("inspect", &python::inspect, py::arg("buffer"));
    module.def("as_array", [](const py::object& object) { return python::array_of(object, "vectors"); });
    module.attr("format_version") = file::kFormatVersion;
    module.attr("arithmetic_revision") = file::kArithmeticRevision;
    module.attr("builder_revision") = file::kBuilderRevision;
    module.attr("compiler") = python::compiler;
    module.attr("planted_faults") = python::planted_faults;
    module.attr("tuned_for") = python::tuned_for;
    kernels::active();  // asks the CPU now: on a virtual machine that takes as long as a quarter of a search
    python::bind_kernels(module);
    python::bind_indexes(module);
    python::bind_annoy(module);
    python::bind_pairs(module);
}
