// How one tree is grown. All arithmetic that decides a split is canonical; all choices come from core/random.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "core/ordered.hpp"
#include "core/random.hpp"
#include "file/little_endian.hpp"
#include "forest/forest.hpp"
#include "forest/margin.hpp"
#include "kernels/dispatch.hpp"

namespace constann {
namespace {

constexpr std::uint64_t kCentreDraws =
    200;                                 // rows drawn to place the two centres of a split, or half of them
constexpr int kAttempts = 3;             // planes tried before rows are split by count
constexpr int kBitDraws = 20;            // bits tried at random before all are
constexpr std::uint64_t kLopsided = 20;  // a side with under 1/20 of the rows makes a plane lopsided
constexpr std::size_t kScoredAtOnce = 256;

class TreeBuilder {
  public:
    TreeBuilder(const TreeSource& source, Random random, const StopSignal& stop)
        : source_(source),
          rows_(source.rows),
          random_(random),
          stop_(stop),
          kernels_(kernels::active()),
          order_(rows_.size()),
          spare_(rows_.size()),
          plane_(source.metric == Metric::hamming ? 0 : rows_.stride() / sizeof(float)),
          a_(plane_.size()),
          b_(plane_.size()) {
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
                part.end - part.begin <= source_.capacity ? make_leaf(part) : make_split(part, open);
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
        const auto split = static_cast<std::uint32_t>(out_.children.size() / 2);
        std::uint64_t middle;
        if (source_.metric == Metric::hamming) {
            middle = divide_by_bit(part);
            out_.bits.push_back(bit_);
        } else {
            middle = divide(part);
            out_.offsets.push_back(offset_);
            out_.planes.insert(out_.planes.end(), plane_.begin(), plane_.end());
        }
        out_.children.insert(out_.children.end(), 2, 0);
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
            const std::uint64_t below = partition_by_plane(part);
            if (std::min(below, count - below) * kLopsided >= count) return part.begin + below;
        }
        // No plane parts these rows (many are equal): a zero plane, whose margin is 0 for every query.
        std::fill(plane_.begin(), plane_.end(), 0.0f);
        offset_ = 0;
        return halves(part);
    }

    // A bit that parts the rows: drawn at random and, if none of those does evenly enough, the best of them;
    // if none does at all, the first that does.
    std::uint64_t divide_by_bit(const Part& part) {
        const std::uint64_t count = part.end - part.begin;
        std::uint64_t best = 0;
        for (int i = 0; i < kBitDraws && best * kLopsided < count; ++i) {
            consider_bit(part, random_.below(source_.dim), best);
        }
        for (std::uint32_t bit = 0; best == 0 && bit < source_.dim; ++bit) consider_bit(part, bit, best);
        if (best != 0)
            return part.begin +
                   partition(part, [this](std::uint32_t row) { return has_bit(rows_[row], bit_); });
        bit_ = kNoBit;
        return halves(part);
    }

    // Takes the bit where its smaller side is greater than `best`.
    void consider_bit(const Part& part, std::uint32_t bit, std::uint64_t& best) {
        std::uint64_t above = 0;
        for (std::uint64_t i = part.begin; i < part.end; ++i) above += has_bit(rows_[order_[i]], bit);
        const std::uint64_t smaller = std::min(above, part.end - part.begin - above);
        if (smaller <= best) return;
        best = smaller;
        bit_ = bit;
    }

    // By count, in the order of rows.
    std::uint64_t halves(const Part& part) {
        std::sort(order_.begin() + static_cast<std::ptrdiff_t>(part.begin),
                  order_.begin() + static_cast<std::ptrdiff_t>(part.end));
        return part.begin + (part.end - part.begin) / 2;
    }

    std::uint32_t draw(const Part& part) { return order_[part.begin + random_.below(part.end - part.begin)]; }

    float lengthening(std::uint32_t row) const {
        return source_.lengthening.empty() ? 0.0f : source_.lengthening[row];
    }

    // The mean of the rows given to it, and how many these are.
    struct Centre {
        explicit Centre(std::size_t floats) : values(floats) {}
        const std::byte* bytes() const { return bytes_of(values).data(); }

        void start(const std::byte* row, float lengthening) {
            std::memcpy(values.data(), row, values.size() * sizeof(float));
            extra = lengthening;
            weight = 1.0f;
        }

        // Moves the mean by one row, in a form that cannot overflow.
        void take(const std::byte* row, float lengthening) {
            const float grown = weight + 1.0f;
            const float keep = weight / grown;
            const float share = 1.0f / grown;
            for (std::size_t i = 0; i < values.size(); ++i) {
                values[i] = mixed(values[i], keep, file::load<float>(row, i), share);
            }
            extra = mixed(extra, keep, lengthening, share);
            weight = grown;
        }

        static float mixed(float mean, float keep, float value, float share) {
            const float kept = mean * keep;
            const float added = value * share;
            return kept + added;
        }

        Floats values;
        float extra = 0.0f;  // for dot: the mean of the rows' lengthening
        float length = 0.0f;
        float weight = 1.0f;
    };

    // Two centres, found as in Annoy by running 2-means over a few drawn rows, each centre's distance
    // weighted by its size to keep sides even; the plane lies midway between them. False where they fall
    // together.
    bool place_plane(const Part& part) {
        const std::uint32_t first = draw(part);
        const std::uint32_t second = draw(part);
        a_.start(rows_[first], lengthening(first));
        b_.start(rows_[second], lengthening(second));
        measure(a_);
        measure(b_);
        const auto draws = std::min<std::uint64_t>(kCentreDraws, part.end - part.begin);
        for (std::uint64_t i = 0; i < draws; ++i) {
            const std::uint32_t row = draw(part);
            const float from_a = a_.weight * distance(a_, row);
            const float from_b = b_.weight * distance(b_, row);
            if (from_a < from_b) take(a_, row);
            if (from_b < from_a) take(b_, row);
        }
        return directions() ? plane_between_directions() : plane_between_points();
    }

    bool directions() const { return source_.metric == Metric::cosine || source_.metric == Metric::dot; }

    float distance(const Centre& centre, std::uint32_t row) const {
        const std::byte* other = rows_[row];
        if (source_.metric == Metric::manhattan) {
            return kernels_.manhattan.one(centre.bytes(), other, rows_.stride());
        }
        if (!directions()) return kernels_.squared_euclidean.one(centre.bytes(), other, rows_.stride());
        const float product = kernels_.inner_product.one(centre.bytes(), other, rows_.stride());
        const float extra = centre.extra * lengthening(row);
        const float lengths = centre.length * source_.row_length;
        return lengths > 0.0f ? 1.0f - (product + extra) / lengths : 1.0f;
    }

    void measure(Centre& centre) const {
        if (!directions()) return;
        const float square = kernels_.inner_product.one(centre.bytes(), centre.bytes(), rows_.stride());
        const float extra = centre.extra * centre.extra;
        centre.length = std::sqrt(square + extra);
    }

    void take(Centre& centre, std::uint32_t row) const {
        centre.take(rows_[row], lengthening(row));
        measure(centre);
    }

    // Sets `plane` to the direction from one to the other. False where they are the same.
    bool set_normal(const Floats& from, const Floats& to, std::span<float> plane) {
        normal_.resize(to.size());
        for (std::size_t i = 0; i < to.size(); ++i)
            normal_[i] = static_cast<double>(to[i]) - static_cast<double>(from[i]);
        return normalise(std::span<const double>(normal_), plane);
    }

    // Through the origin, as angles have no place: between the two directions. For dot the directions have
    // the lengthening as one more element, which the queries' is 0 of.
    bool plane_between_directions() {
        Floats a(a_.values), b(b_.values), plane(plane_.size() + 1);
        a.push_back(a_.extra);
        b.push_back(b_.extra);
        if (!normalise(a) || !normalise(b) || !set_normal(b, a, plane)) return false;
        std::copy(plane.begin(), plane.end() - 1, plane_.begin());
        plane_extra_ = plane.back();
        offset_ = 0;
        return true;
    }

    bool plane_between_points() {
        if (!set_normal(b_.values, a_.values, plane_)) return false;
        Floats middle(plane_.size());
        for (std::size_t i = 0; i < middle.size(); ++i) {
            const float half_a = a_.values[i] * 0.5f;
            const float half_b = b_.values[i] * 0.5f;
            middle[i] = half_a + half_b;
        }
        offset_ = 0.0f - kernels_.inner_product.one(bytes_of(plane_).data(), bytes_of(middle).data(),
                                                    rows_.stride());
        return finite(offset_);
    }

    std::uint64_t partition_by_plane(const Part& part) {
        sides_.resize(part.end - part.begin);
        const std::byte* rows[kScoredAtOnce];
        float products[kScoredAtOnce];
        for (std::uint64_t first = part.begin; first < part.end; first += kScoredAtOnce) {
            const std::size_t here = std::min<std::uint64_t>(kScoredAtOnce, part.end - first);
            for (std::size_t i = 0; i < here; ++i) rows[i] = rows_[order_[first + i]];
            kernels_.inner_product.many(bytes_of(plane_).data(), rows, here, rows_.stride(), products);
            for (std::size_t i = 0; i < here; ++i) {
                const float extra = plane_extra_ * lengthening(order_[first + i]);
                sides_[first - part.begin + i] = margin(offset_, products[i] + extra) > 0;
            }
        }
        std::size_t next = 0;
        return partition(part, [&](std::uint32_t) { return sides_[next++] != 0; });
    }

    // Asks for each row in turn whether it lies on the second side. Stable: both sides keep the order of
    // their rows. Returns how many lie on the first side.
    template <class Second>
    std::uint64_t partition(const Part& part, const Second& second) {
        std::uint64_t below = part.begin, above = 0;
        for (std::uint64_t i = part.begin; i < part.end; ++i) {
            const std::uint32_t row = order_[i];
            if (second(row)) {
                spare_[above++] = row;
            } else {
                order_[below++] = row;
            }
        }
        std::copy_n(spare_.begin(), above, order_.begin() + static_cast<std::ptrdiff_t>(below));
        return below - part.begin;
    }

    const TreeSource& source_;
    const RowsView& rows_;
    Random random_;
    const StopSignal& stop_;
    const kernels::KernelTable& kernels_;
    std::vector<std::uint32_t> order_;
    std::vector<std::uint32_t> spare_;
    std::vector<char> sides_;
    Floats plane_;
    std::vector<double> normal_;
    Centre a_, b_;
    float plane_extra_ = 0;
    float offset_ = 0;
    std::uint32_t bit_ = kNoBit;
    Trees out_;
};

}  // namespace

// The largest inner product becomes the smallest angle where each row gets one more element, which makes all
// rows as long as the longest (Bachrach et al., RecSys 2014); a query's is 0.
std::vector<float> lengthening_of(Metric metric, const RowsView& rows, float& row_length) {
    row_length = 1.0f;
    if (metric != Metric::dot) return {};
    std::vector<double> squares;
    squares.reserve(rows.size());
    double longest = 0.0;
    Floats row(rows.stride() / sizeof(float));
    for (std::uint64_t i = 0; i < rows.size(); ++i) {
        std::memcpy(row.data(), rows[i], rows.stride());
        squares.push_back(squared_norm(row));
        longest = std::max(longest, squares.back());
    }
    std::vector<float> all;
    all.reserve(rows.size());
    for (const double square : squares) all.push_back(static_cast<float>(std::sqrt(longest - square)));
    row_length = static_cast<float>(std::sqrt(longest));
    return all;
}

Trees build_tree(const TreeSource& source, std::uint64_t seed, std::uint32_t tree, const StopSignal& stop) {
    return TreeBuilder(source, Random(seed, tree), stop).build();
}

}  // namespace constann
