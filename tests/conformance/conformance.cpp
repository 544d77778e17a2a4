// The core without Python: builds every kind of index and metric from raw rows, searches each and
// writes what came out, for comparison byte by byte with other compilers, architectures and the Python
// package. It computes no digest: the places of digests in its index files stay zero.
//
// constann_conformance KERNELS THREADS DIM VECTORS QUERIES K OUTPUT_FOLDER
//                      [SEED FOREST_EFFORT GRAPH_EFFORT [LOAD_FOLDER]]
// VECTORS and QUERIES hold rows of float32 (*.f32) or float64 (*.f64). Index files of LOAD_FOLDER
// (*.constann) are opened and searched as well. It prints what this process sees of its CPU.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "exact/exact.hpp"
#include "forest/forest.hpp"
#include "graph/graph.hpp"
#include "kernels/cpu_features.hpp"
#include "kernels/dispatch.hpp"

namespace {

using constann::Index, constann::Matrix, constann::Metric;

std::vector<char> read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw std::runtime_error("cannot read " + path);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void write_file(const std::string& path, std::span<const std::byte> bytes) {
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

struct Rows {
    std::vector<char> bytes;
    constann::ElementType type;
};

Rows read_rows(const std::string& path) {
    return {read_file(path),
            path.ends_with(".f64") ? constann::ElementType::float64 : constann::ElementType::float32};
}

Matrix matrix_of(const Rows& rows, std::uint32_t dim) {
    const bool bits = rows.type == constann::ElementType::uint8;
    if (bits) dim = (dim + 7) / 8;
    const std::size_t element = rows.type == constann::ElementType::float64 ? sizeof(double)
                                : bits                                      ? 1
                                                                            : sizeof(float);
    return {reinterpret_cast<const std::byte*>(rows.bytes.data()),
            rows.type,
            rows.bytes.size() / (dim * element),
            dim,
            static_cast<std::ptrdiff_t>(dim * element),
            static_cast<std::ptrdiff_t>(element)};
}

// One bit for each element, packed as numpy.packbits does: whether it is above 0.
Rows signs_of(const Rows& rows, std::uint32_t dim) {
    const std::size_t element = rows.type == constann::ElementType::float64 ? sizeof(double) : sizeof(float);
    const std::size_t columns = (dim + 7) / 8;
    const std::size_t count = rows.bytes.size() / (dim * element);
    Rows packed{std::vector<char>(count * columns), constann::ElementType::uint8};
    for (std::size_t i = 0; i < count * dim; ++i) {
        double wide;
        float narrow;
        std::memcpy(element == sizeof wide ? static_cast<void*>(&wide) : &narrow, &rows.bytes[i * element],
                    element);
        if (!(element == sizeof wide ? wide > 0 : narrow > 0)) continue;
        char& byte = packed.bytes[i / dim * columns + i % dim / 8];
        byte = static_cast<char>(static_cast<unsigned char>(byte) | (0x80u >> (i % dim % 8)));
    }
    return packed;
}

// The index file as the package writes it, save the digests.
std::vector<std::byte> file_of(const Index& index) {
    const constann::file::Header header = index.header();
    std::vector<std::byte> file = constann::file::encode(header);
    file.resize(constann::file::file_length(header));
    const std::vector<constann::file::Content> contents = index.contents();
    for (std::size_t i = 0; i < contents.size(); ++i) {
        std::memcpy(file.data() + header.sections[i].offset, contents[i].bytes.data(),
                    contents[i].bytes.size());
    }
    return file;
}

struct Arguments {
    unsigned threads;
    std::uint32_t dim;
    Rows vectors, queries;
    std::size_t k;
    std::string output;
    std::uint64_t seed = 0;
    std::optional<std::uint64_t> forest_effort = {}, graph_effort = {};
};

void search(const Index& index, const std::string& name, const Arguments& arguments) {
    const Matrix queries = matrix_of(arguments.queries, arguments.dim);
    std::vector<std::int64_t> ids(queries.rows * arguments.k);
    std::vector<float> distances(ids.size());
    const auto kind = index.header().kind;
    const auto effort = kind == constann::file::Kind::forest  ? arguments.forest_effort
                        : kind == constann::file::Kind::graph ? arguments.graph_effort
                                                              : std::nullopt;
    index.search({queries, arguments.k, effort, arguments.threads}, {}, ids, distances);
    write_file(arguments.output + "/" + name + ".ids", std::as_bytes(std::span(ids)));
    write_file(arguments.output + "/" + name + ".distances", std::as_bytes(std::span(distances)));
}

void run(Index& index, const std::string& name, const Arguments& arguments) {
    index.add(matrix_of(arguments.vectors, arguments.dim));
    index.build(arguments.threads, arguments.seed, {});
    write_file(arguments.output + "/" + name + ".index", file_of(index));
    search(index, name, arguments);
}

void load_all(const std::string& folder, const Arguments& arguments, const Arguments& bits) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        if (entry.path().extension() != ".constann") continue;
        const auto file = std::make_shared<const std::vector<char>>(read_file(entry.path().string()));
        const auto index = constann::open(std::as_bytes(std::span(*file)), file);
        const Arguments& given = index->metric() == Metric::hamming ? bits : arguments;
        search(*index, "loaded-" + entry.path().stem().string(), given);
    }
}

void print_facts() {
    std::printf("kernels %s\navailable", constann::kernels::active().name);
    for (const auto& each : constann::kernels::implementations()) {
        if (constann::kernels::supported(each)) std::printf(" %s", each.table->name);
    }
    std::printf("\nfeatures");
    for (const std::string& feature : constann::kernels::cpu_features()) std::printf(" %s", feature.c_str());
    std::printf("\ncompiler %s\n", CONSTANN_COMPILER);
}

void run_all(int argc, char** argv) {
    constann::kernels::use(argv[1]);
    print_facts();
    Arguments arguments{static_cast<unsigned>(std::stoul(argv[2])),
                        static_cast<std::uint32_t>(std::stoul(argv[3])),
                        read_rows(argv[4]),
                        read_rows(argv[5]),
                        std::stoul(argv[6]),
                        argv[7]};
    if (argc > 8) {
        arguments.seed = std::stoull(argv[8]);
        arguments.forest_effort = std::stoull(argv[9]);
        arguments.graph_effort = std::stoull(argv[10]);
    }
    Arguments bits = arguments;
    bits.vectors = signs_of(arguments.vectors, arguments.dim);
    bits.queries = signs_of(arguments.queries, arguments.dim);
    for (const Metric metric :
         {Metric::cosine, Metric::euclidean, Metric::manhattan, Metric::dot, Metric::hamming}) {
        const Arguments& given = metric == Metric::hamming ? bits : arguments;
        const std::string suffix = std::string("-") + constann::name_of(metric);
        run(*std::make_unique<constann::Exact>(given.dim, metric), "exact" + suffix, given);
        run(*std::make_unique<constann::Forest>(given.dim, metric, std::nullopt, std::nullopt),
            "forest" + suffix, given);
        if (metric == Metric::manhattan || metric == Metric::hamming) continue;
        run(*std::make_unique<constann::Graph>(given.dim, metric, std::nullopt), "graph" + suffix, given);
    }
    if (argc > 11) load_all(argv[11], arguments, bits);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 8 && argc != 11 && argc != 12) {
        std::fprintf(stderr,
                     "usage: %s KERNELS THREADS DIM VECTORS QUERIES K OUTPUT_FOLDER"
                     " [SEED FOREST_EFFORT GRAPH_EFFORT [LOAD_FOLDER]]\n",
                     argv[0]);
        return 2;
    }
    try {
        run_all(argc, argv);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
