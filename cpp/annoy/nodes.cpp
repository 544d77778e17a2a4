// See nodes.hpp: the layout, opening, adding and distances.
#include "annoy/nodes.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "file/little_endian.hpp"
#include "kernels/dispatch.hpp"

namespace constann::annoy {
namespace {

constexpr std::size_t kNumber = sizeof(std::int32_t);
constexpr std::uint64_t kMaxNodes = INT32_MAX;

[[noreturn]] void refuse(const std::string& what) {
    throw file::FormatError(what);
}

}  // namespace

Layout::Layout(Metric metric, std::uint32_t dim, bool as_packed) : packed(as_packed) {
    const bool points = metric == Metric::euclidean || metric == Metric::manhattan;
    const bool words = metric == Metric::hamming;
    children = points ? 8 : 4;
    vector = metric == Metric::cosine || packed ? 12 : 16;
    vector_length = words ? row_stride(metric, dim) : dim * sizeof(float);
    size = vector + vector_length;
    capacity = static_cast<std::uint32_t>((size - children) / kNumber);
}

Nodes::Nodes(Metric metric, std::uint32_t dim) : metric_(metric), dim_(dim), layout_(metric, dim) {}

Nodes::Nodes(Metric metric, std::uint32_t dim, std::span<const std::byte> file,
             std::shared_ptr<const void> memory)
    : metric_(metric), dim_(dim), layout_(metric, dim), memory_(std::move(memory)), bytes_(file) {
    if (file.empty()) refuse("the file is empty");
    const Layout packed(metric, dim, true);
    try {
        open_as(layout_);
    } catch (const file::FormatError&) {
        if (metric != Metric::hamming || file.size() % packed.size != 0) throw;
        open_as(packed);
    }
}

void Nodes::open_as(const Layout& layout) {
    layout_ = layout;
    if (bytes_.size() % layout_.size != 0) {
        refuse("the file has " + std::to_string(bytes_.size()) + " bytes, which is no multiple of " +
               std::to_string(layout_.size) +
               ", the size of a node: it is truncated, or was made with another f or metric");
    }
    if (bytes_.size() / layout_.size > kMaxNodes) refuse("the file has more nodes than Annoy can number");
    nodes_ = static_cast<std::uint32_t>(bytes_.size() / layout_.size);
    count_trees();
}

// The last node is a copy of a root, and a root's count is the number of items. As many nodes before it have
// the same count as there are roots, and the last root itself, which is not a copy; where a tree is one node,
// all roots.
void Nodes::count_trees() {
    const std::int32_t items = number(nodes_ - 1, 0);
    std::uint32_t run = 1;
    while (run < nodes_ && number(nodes_ - 1 - run, 0) == items) ++run;
    const auto same = [&](std::uint32_t a, std::uint32_t b) {
        return std::memcmp(&bytes_[a * layout_.size], &bytes_[b * layout_.size], layout_.size) == 0;
    };
    const std::uint32_t half = run / 2;
    bool twice = half > 0;
    for (std::uint32_t i = 0; i < half && twice; ++i) twice = same(nodes_ - half + i, nodes_ - 2 * half + i);
    trees_ = twice ? half : run;
    for (std::uint32_t i = 1; i < run && !twice; ++i) {
        if (same(nodes_ - run, nodes_ - i)) trees_ = run - 1;
    }
    const char* what = "this is no Annoy index of this f and metric, or it is damaged: ";
    if (items < 1 || static_cast<std::uint32_t>(items) > nodes_ - trees_) {
        refuse(std::string(what) + "its last node does not count its items");
    }
    items_ = static_cast<std::uint32_t>(items);
    const auto is_item_or_hole = [&](std::uint32_t node) {
        return number(node, 0) == 0 || number(node, 0) == 1;
    };
    if (!is_item_or_hole(0) || number(items_ - 1, 0) != 1) {
        refuse(std::string(what) + "it does not begin with items");
    }
}

std::int32_t Nodes::number(std::uint32_t node, std::size_t offset) const {
    return file::load<std::int32_t>(&bytes_[node * layout_.size + offset]);
}

float Nodes::real(std::uint32_t node, std::size_t offset) const {
    return file::load<float>(&bytes_[node * layout_.size + offset]);
}

std::span<std::byte> Nodes::own_node(std::uint32_t node) {
    return std::span(own_).subspan(node * layout_.size, layout_.size);
}

bool Nodes::is_item(std::uint32_t item) const {
    return item < items_ && number(item, 0) == 1;
}

std::span<const std::byte> Nodes::vector_of(std::uint32_t item) const {
    return bytes_.subspan(item * layout_.size + layout_.vector, layout_.vector_length);
}

void Nodes::add_item(std::uint32_t item, std::span<const std::byte> vector) {
    const Change change(access_);
    put_item(item, vector);
}

void Nodes::put_item(std::uint32_t item, std::span<const std::byte> vector) {
    if (item >= items_) {
        own_.resize((std::size_t{item} + 1) * layout_.size);
        items_ = nodes_ = item + 1;
        bytes_ = own_;
    }
    const std::span<std::byte> node = own_node(item);
    std::fill(node.begin(), node.end(), std::byte{0});
    const std::int32_t count = 1;
    std::memcpy(node.data(), &count, sizeof count);
    std::memcpy(&node[layout_.vector], vector.data(), vector.size());
    if (metric_ != Metric::cosine) return;
    Bytes padded(row_stride(metric_, dim_));
    std::memcpy(padded.data(), vector.data(), vector.size());
    const float norm = kernels::active().inner_product.one(padded.data(), padded.data(), padded.size());
    std::memcpy(&node[layout_.children], &norm, sizeof norm);
}

void Nodes::unbuild() {
    const Change change(access_);
    drop_trees();
}

void Nodes::drop_trees() {
    nodes_ = items_;
    trees_ = 0;
    own_.resize(nodes_ * layout_.size);
    bytes_ = own_;
}

float Nodes::distance(std::uint32_t a, std::uint32_t b) const {
    const std::int32_t other = static_cast<std::int32_t>(b);
    return scores(vector_of(a), std::span(&other, 1))[0];
}

// As Annoy returns them, smaller is nearer; but for dot, where it returns the product, 0 less that.
std::vector<float> Nodes::scores(std::span<const std::byte> query,
                                 std::span<const std::int32_t> items) const {
    constexpr std::size_t kAtOnce = 32;
    const kernels::KernelTable& kernels = kernels::active();
    const std::size_t stride = row_stride(metric_, dim_);
    Bytes padded_query(stride), rows(kAtOnce * stride);
    std::memcpy(padded_query.data(), query.data(), query.size());
    const float query_norm = metric_ == Metric::cosine
                                 ? kernels.inner_product.one(padded_query.data(), padded_query.data(), stride)
                                 : 0.0f;
    const bool as_it_lies = stride == layout_.vector_length;
    std::vector<float> scored(items.size());
    std::vector<const std::byte*> addresses(kAtOnce);
    for (std::size_t first = 0; first < items.size(); first += kAtOnce) {
        const std::size_t here = std::min(kAtOnce, items.size() - first);
        for (std::size_t i = 0; i < here; ++i) {
            const std::span<const std::byte> vector = vector_of(static_cast<std::uint32_t>(items[first + i]));
            addresses[i] = as_it_lies ? vector.data() : &rows[i * stride];
            if (!as_it_lies) std::memcpy(&rows[i * stride], vector.data(), vector.size());
        }
        const std::span<float> out = std::span(scored).subspan(first, here);
        if (metric_ != Metric::cosine) {
            distances(kernels, metric_, padded_query.data(), std::span(addresses).first(here), stride, out);
            continue;
        }
        kernels.inner_product.many(padded_query.data(), addresses.data(), here, stride, out.data());
        for (std::size_t i = 0; i < here; ++i) {
            float norm = real(static_cast<std::uint32_t>(items[first + i]), layout_.children);
            if (norm == 0.0f) norm = kernels.inner_product.one(addresses[i], addresses[i], stride);
            const double norms = static_cast<double>(query_norm) * static_cast<double>(norm);
            const double squared =
                norms > 0 ? 2.0 - 2.0 * static_cast<double>(out[i]) / std::sqrt(norms) : 2.0;
            out[i] = static_cast<float>(std::sqrt(squared > 0 ? squared : 0.0));
            if (squared != squared) out[i] = std::numeric_limits<float>::infinity();
        }
    }
    return scored;
}

}  // namespace constann::annoy
