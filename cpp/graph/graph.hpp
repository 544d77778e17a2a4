// The graph: each node is linked to nodes near it, and a search follows links towards the query, comparing
// small integers, and then the best of what it met exactly. A node is a row, or all rows that have the same
// codes. Nodes are numbered in a random order, so that the first of them stand for all: they are the upper
// levels.
#pragma once

#include "core/codes.hpp"
#include "core/index.hpp"
#include "graph/build_links.hpp"
#include "graph/rotation.hpp"
#include "graph/walk.hpp"

namespace constann {

// How rows become the codes that are compared.
struct CodeForm {
    std::uint64_t bits = 0;  // 4 or 7; 0: the rows themselves are compared
    std::optional<Rotation> rotation = {};
    CodeScale scale = {};
    std::uint64_t rerank = 0;  // how many nodes are left for the exact comparison

    // Length in bytes of a row of codes.
    std::size_t stride(std::uint32_t dim) const {
        return bits == 4 ? half_code_stride(dim) : code_stride(dim);
    }
    // Sets `codes`, and `turned` where there is a rotation.
    void encode(Metric metric, const std::byte* query, std::uint32_t dim, Floats& turned, Bytes& codes) const;
};

class Graph final : public Index {
  public:
    // `effort` is how many nodes a search keeps in view by default; `code_bits` 4 or 7 compares small
    // integers first, 0 does not. What is not given is settled in build(), by trying.
    Graph(std::uint32_t dim, Metric metric, std::optional<std::uint64_t> effort,
          std::optional<std::uint64_t> code_bits = std::nullopt);

    // With the parameters of a file, whose structure is still to be opened.
    static std::unique_ptr<Graph> for_file(const file::Header& header);

    std::uint64_t code_bits() const { return form_.bits; }
    bool rotated() const { return form_.rotation.has_value(); }
    std::uint64_t nodes() const { return node_rows_.nodes; }

    // The least effort that finds this share of the k nearest of the queries, counted against all rows.
    // Changes nothing.
    std::uint64_t tune(const Matrix& queries, std::size_t k, double recall, unsigned threads,
                       const Watch& watch) const;

  private:
    class Search;

    // For each of some rows as queries: the keys of its nearest rows.
    struct Truth {
        Bytes queries;
        std::vector<std::vector<std::uint64_t>> nearest;
    };

    std::vector<std::uint32_t> trial_rows() const;
    Truth true_neighbours(unsigned threads, const Watch& watch) const;
    CodedRows codes_of_rows(const std::optional<Rotation>& rotation, unsigned threads) const;
    std::uint64_t rerank_needed(const CodeForm& form, const Bytes& codes_of_7, const Truth& truth,
                                unsigned threads) const;
    Bytes choose_codes(const Truth& truth, unsigned threads);
    std::vector<std::uint32_t> bias() const;
    void group_rows(const RowsView& compared);
    Bytes codes_by_node(const Bytes& by_row);
    std::uint64_t settled_effort(const Truth& truth, unsigned threads) const;
    std::uint64_t hits(const Truth& truth, std::uint64_t effort, unsigned threads) const;
    Measure measure(const kernels::KernelTable& kernels) const;
    void look_at_own();
    void look_at_upper(std::span<const std::byte> links);
    // Rows of unit length are ordered alike by cosine and by distance, which codes keep better: its error
    // shrinks with the distance.
    Metric compared_as() const { return metric() == Metric::cosine ? Metric::euclidean : metric(); }

    void open_structure(const file::Header& header, std::span<const std::byte> file) override;
    void build_structure(unsigned threads, const Watch& watch) override;
    void find(const RowsView& queries, const SearchPlan& plan, std::span<NearestRows> nearest) const override;
    std::vector<file::Parameter> parameters() const override;
    std::vector<file::Content> structure() const override;

    std::optional<std::uint64_t> wanted_code_bits_;
    CodeForm form_;
    Bytes own_codes_;
    std::vector<std::uint32_t> own_node_rows_, own_node_bounds_;
    Links own_links_;
    RowsView codes_;
    NodeRows node_rows_;
    std::span<const std::byte> links_, upper_links_;
    std::vector<Level> upper_;
};

}  // namespace constann
