// How one tree is grown. All arithmetic that decides a split is canonical; all choices come from core/random.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "core/random.hpp"
#include "forest/forest.hpp"
#include "forest/margin.hpp"
#include "kernels/dispatch.hpp"

namespace constann {
namespace {

constexpr int kCentreDraws = 200;        // rows drawn to place the two centres of a split
constexpr int kAttempts = 3;             // planes tried before rows are split by count
constexpr std::uint64_t kLopsided = 20;  // a side with under 1/20 of the rows makes a plane lopsided
constexpr std::size_t kScoredAtOnce = 256;

class TreeBuilder {
  public:
    TreeBuilder(Metric metric, const RowsView& rows, std::uint32_t capacity, Random random,
                const StopSignal& stop)
        : metric_(metric),
          rows_(rows),
          capacity_(capacity),
          random_(random),
          stop_(stop),
          kernels_(kernels::active()),
          order_(rows.size()),
          spare_(rows.size()),
          plane_(rows.floats()) {
        std::iota(order_.begin(), order_.end(), 0u);
    }

    Trees build() {
        out_.leaf_bounds.push_back(0);
        out_.roots.push_back(0);
        std::vector<Part> open = {{0, rows_.size(), kNoChild}};
        while (!open.empty()) {
            stop_.check();
            const Part part = open.back();
            open.pop_back();
            const std::uint32_t self =
                part.end - part.begin <= capacity_ ? make_leaf(part) : make_split(part, open);
            (part.child == kNoChild ? out_.roots[0] : out_.children[part.child]) = self;
        }
        return std::move(out_);
    }

  private:
    static constexpr std::size_t kNoChild = static_cast<std::size_t>(-1);

    // Rows order_[begin..end) wait to become a node; `child` is the place in `children` that will point to
    // it.
    struct Part {
        std::uint64_t begin, end;
        std::size_t child;
    };

    std::uint32_t make_leaf(const Part& part) {
        out_.leaf_rows.insert(out_.leaf_rows.end(), order_.begin() + static_cast<std::ptrdiff_t>(part.begin),
                              order_.begin() + static_cast<std::ptrdiff_t>(part.end));
        out_.leaf_bounds.push_back(out_.leaf_rows.size());
        return kLeafBit | static_cast<std::uint32_t>(out_.leaf_bounds.size() - 2);
    }

    std::uint32_t make_split(const Part& part, std::vector<Part>& open) {
        const auto split = static_cast<std::uint32_t>(out_.offsets.size());
        const std::uint64_t middle = divide(part);
        out_.children.insert(out_.children.end(), 2, 0);
        out_.offsets.push_back(offset_);
        out_.planes.insert(out_.planes.end(), plane_.begin(), plane_.end());
        open.push_back({middle, part.end, 2 * std::size_t{split} + 1});
        open.push_back({part.begin, middle, 2 * std::size_t{split}});
        return split;
    }

    // Sets the plane and orders the part by its sides, each in rising order of rows; returns where the second
    // begins.
    std::uint64_t divide(const Part& part) {
        const std::uint64_t count = part.end - part.begin;
        for (int attempt = 0; attempt < kAttempts; ++attempt) {
            if (!place_plane(part)) continue;
            const std::uint64_t below = partition(part);
            if (std::min(below, count - below) * kLopsided >= count) return part.begin + below;
        }
        // No plane parts these rows (many are equal): a zero plane, whose margin is 0 for every query, and
        // halves.
        std::fill(plane_.begin(), plane_.end(), 0.0f);
        offset_ = 0;
        std::sort(order_.begin() + static_cast<std::ptrdiff_t>(part.begin),
                  order_.begin() + static_cast<std::ptrdiff_t>(part.end));
        return part.begin + count / 2;
    }

    const std::byte* draw(const Part& part) {
        return rows_[order_[part.begin + random_.below(part.end - part.begin)]];
    }

    // Two centres, found as in Annoy by running 2-means over a few drawn rows, each centre's distance
    // weighted by its size to keep sides even; the plane lies midway between them. False where they fall
    // together.
    bool place_plane(const Part& part) {
        Centre a(draw(part), rows_.floats());
        Centre b(draw(part), rows_.floats());
        for (int i = 0; i < kCentreDraws; ++i) {
            const std::byte* row = draw(part);
            const float from_a = a.weight * kernels_.squared_euclidean(a.bytes(), row, rows_.floats());
            const float from_b = b.weight * kernels_.squared_euclidean(b.bytes(), row, rows_.floats());
            if (from_a < from_b) a.take(row);
            if (from_b < from_a) b.take(row);
        }
        return metric_ == Metric::cosine ? plane_between_directions(a, b) : plane_between_points(a, b);
    }

    struct Centre {
        Centre(const std::byte* row, std::size_t floats) : values(floats) {
            std::memcpy(values.data(), row, floats * sizeof(float));
        }
        const std::byte* bytes() const { return reinterpret_cast<const std::byte*>(values.data()); }

        // Moves the mean by one row, in a form that cannot overflow.
        void take(const std::byte* row) {
            const float grown = weight + 1.0f;
            const float keep = weight / grown;
            const float share = 1.0f / grown;
            for (std::size_t i = 0; i < values.size(); ++i) {
                float value;
                std::memcpy(&value, row + i * sizeof value, sizeof value);
                const float kept = values[i] * keep;
                const float added = value * share;
                values[i] = kept + added;
            }
            weight = grown;
        }

        Floats values;
        float weight = 1.0f;
    };

    // Through the origin, as angles have no place: between the two directions.
    bool plane_between_directions(Centre& a, Centre& b) {
        if (!normalise(a.values) || !normalise(b.values)) return false;
        offset_ = 0;
        return set_normal(a.values, b.values);
    }

    bool plane_between_points(const Centre& a, const Centre& b) {
        if (!set_normal(a.values, b.values)) return false;
        Floats middle(plane_.size());
        for (std::size_t i = 0; i < middle.size(); ++i) {
            const float half_a = a.values[i] * 0.5f;
            const float half_b = b.values[i] * 0.5f;
            middle[i] = half_a + half_b;
        }
        const auto* plane = reinterpret_cast<const std::byte*>(plane_.data());
        const auto* point = reinterpret_cast<const std::byte*>(middle.data());
        offset_ = 0.0f - kernels_.inner_product(plane, point, plane_.size());
        const bool finite = offset_ - offset_ == 0.0f;
        return finite;
    }

    bool set_normal(const Floats& a, const Floats& b) {
        std::vector<double> difference(a.size());
        for (std::size_t i = 0; i < a.size(); ++i) {
            difference[i] = static_cast<double>(a[i]) - static_cast<double>(b[i]);
        }
        return normalise(std::span<const double>(difference), plane_);
    }

    // Stable: both sides keep the order of their rows. Returns how many lie on the first side.
    std::uint64_t partition(const Part& part) {
        const std::byte* rows[kScoredAtOnce];
        float products[kScoredAtOnce];
        std::uint64_t below = part.begin, above = 0;
        for (std::uint64_t first = part.begin; first < part.end; first += kScoredAtOnce) {
            const std::size_t here = std::min<std::uint64_t>(kScoredAtOnce, part.end - first);
            for (std::size_t i = 0; i < here; ++i) rows[i] = rows_[order_[first + i]];
            kernels_.inner_product_many(reinterpret_cast<const std::byte*>(plane_.data()), rows, here,
                                        rows_.floats(), products);
            for (std::size_t i = 0; i < here; ++i) {
                const std::uint32_t row = order_[first + i];
                if (margin(offset_, products[i]) > 0) {
                    spare_[above++] = row;
                } else {
                    order_[below++] = row;
                }
            }
        }
        std::copy_n(spare_.begin(), above, order_.begin() + static_cast<std::ptrdiff_t>(below));
        return below - part.begin;
    }

    const Metric metric_;
    const RowsView& rows_;
    const std::uint32_t capacity_;
    Random random_;
    const StopSignal& stop_;
    const kernels::KernelTable& kernels_;
    std::vector<std::uint32_t> order_;
    std::vector<std::uint32_t> spare_;
    Floats plane_;
    float offset_ = 0;
    Trees out_;
};

}  // namespace

Trees build_tree(Metric metric, const RowsView& rows, std::uint32_t capacity, std::uint64_t seed,
                 std::uint32_t tree, const StopSignal& stop) {
    return TreeBuilder(metric, rows, capacity, Random(seed, tree), stop).build();
}

}  // namespace constann
