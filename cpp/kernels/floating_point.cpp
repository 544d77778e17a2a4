// See floating_point.hpp: the control registers of each architecture, saved, normalised and put back.
#include "kernels/floating_point.hpp"

#include <cstdint>

namespace constann::kernels::detail {
namespace {

#if defined(__x86_64__)

class Environment {
  public:
    Environment() : saved_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(kAllMaskedRoundToNearest); }
    ~Environment() { __builtin_ia32_ldmxcsr(saved_); }
    Environment(const Environment&) = delete;
    Environment& operator=(const Environment&) = delete;

  private:
    static constexpr std::uint32_t kAllMaskedRoundToNearest = 0x1f80;
    std::uint32_t saved_;
};

#elif defined(__aarch64__)

class Environment {
  public:
    Environment() {
        __asm__ volatile("mrs %0, fpcr" : "=r"(control_));
        __asm__ volatile("mrs %0, fpsr" : "=r"(status_));
        // Zero clears FZ, FZ16, DN, AH, FIZ, NEP, every trap, and rounds to nearest.
        __asm__ volatile("msr fpcr, %0" ::"r"(std::uint64_t{0}) : "memory");
    }
    ~Environment() {
        __asm__ volatile("msr fpcr, %0" ::"r"(control_) : "memory");
        __asm__ volatile("msr fpsr, %0" ::"r"(status_) : "memory");
    }
    Environment(const Environment&) = delete;
    Environment& operator=(const Environment&) = delete;

  private:
    std::uint64_t control_;
    std::uint64_t status_;
};

#endif

}  // namespace

[[gnu::noinline]] void run_canonically(void (*task)(void*), void* argument) {
    const Environment environment;
    task(argument);
}

}  // namespace constann::kernels::detail
