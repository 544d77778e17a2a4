// A small integer generator (SplitMix64: Steele, Lea and Flood, OOPSLA 2014), keyed by (seed, stream): the
// only source of random choices, so that they depend on neither thread nor platform.
#pragma once

#include <cstdint>

namespace constann {

class Random {
  public:
    Random(std::uint64_t seed, std::uint64_t stream)
        : state_(mixed(seed + kGolden) ^ mixed(stream * kGolden + 1)) {}

    std::uint64_t next() {
        state_ += kGolden;
        return mixed(state_);
    }

    // Uniform in 0..bound-1; bound is 1..2^32. The bias, under 2^-32, is the same everywhere.
    std::uint32_t below(std::uint64_t bound) {
        return static_cast<std::uint32_t>(((next() >> 32) * bound) >> 32);
    }

  private:
    static constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u;

    static std::uint64_t mixed(std::uint64_t z) {
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }

    std::uint64_t state_;
};

}  // namespace constann
