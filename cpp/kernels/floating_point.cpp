// See floating_point.hpp: the control registers of each architecture, saved, normalised and put back.
#include "kernels/floating_point.hpp"

#include <cstdint>

namespace constann::kernels::detail {
namespace {

#if defined(__x86_64__)

struct Environment {
    static constexpr std::uint32_t kAllMaskedRoundToNearest = 0x1f80;
    const std::uint32_t saved = __builtin_ia32_stmxcsr();

    Environment() { __builtin_ia32_ldmxcsr(kAllMaskedRoundToNearest); }
    ~Environment() { __builtin_ia32_ldmxcsr(saved); }
};

#elif defined(__aarch64__)

struct Environment {
    std::uint64_t control, status;

    Environment() {
        __asm__ volatile("mrs %0, fpcr" : "=r"(control));
        __asm__ volatile("mrs %0, fpsr" : "=r"(status));
        // Zero clears FZ, FZ16, DN, AH, FIZ, NEP, every trap, and rounds to nearest.
        __asm__ volatile("msr fpcr, %0" ::"r"(std::uint64_t{0}) : "memory");
    }
    ~Environment() {
        __asm__ volatile("msr fpcr, %0" ::"r"(control) : "memory");
        __asm__ volatile("msr fpsr, %0" ::"r"(status) : "memory");
    }
};

#endif

}  // namespace

[[gnu::noinline]] void run_canonically(void (*task)(void*), void* argument) {
    const Environment environment;
    task(argument);
}

}  // namespace constann::kernels::detail
