// See cpu_features.hpp. Everything is read anew at each call: no static state, no static initialiser.
#include "kernels/cpu_features.hpp"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace constann::kernels {

#if defined(__x86_64__)
namespace {

enum Register { kEbx, kEcx, kEdx };
enum SavedState : std::uint64_t { kNone = 0, kAvx = 0x06, kAvx512 = 0xe6 };

struct Feature {
    const char* name;
    unsigned leaf;
    Register reg;
    int bit;
    SavedState state;
};

constexpr Feature kFeatures[] = {
    {"avx", 1, kEcx, 28, kAvx},
    {"avx2", 7, kEbx, 5, kAvx},
    {"avx512_vnni", 7, kEcx, 11, kAvx512},
    {"avx512_vpopcntdq", 7, kEcx, 14, kAvx512},
    {"avx512bw", 7, kEbx, 30, kAvx512},
    {"avx512dq", 7, kEbx, 17, kAvx512},
    {"avx512f", 7, kEbx, 16, kAvx512},
    {"avx512vl", 7, kEbx, 31, kAvx512},
    {"bmi1", 7, kEbx, 3, kNone},
    {"bmi2", 7, kEbx, 8, kNone},
    {"f16c", 1, kEcx, 29, kAvx},
    {"fma", 1, kEcx, 12, kAvx},
    {"popcnt", 1, kEcx, 23, kNone},
    {"sse2", 1, kEdx, 26, kNone},
    {"sse3", 1, kEcx, 0, kNone},
    {"sse4_1", 1, kEcx, 19, kNone},
    {"sse4_2", 1, kEcx, 20, kNone},
    {"ssse3", 1, kEcx, 9, kNone},
};

// Which register files the operating system saves on a switch (XCR0); 0 where it uses no XSAVE.
std::uint64_t saved_registers(const unsigned (&leaf1)[3]) {
    if (!(leaf1[kEcx] & (1u << 27))) return 0;
    std::uint32_t low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<std::uint64_t>(high) << 32) | low;
}

}  // namespace

std::vector<std::string> cpu_features() {
    // Each leaf once: on a virtual machine the host answers, in microseconds.
    unsigned leaf1[3] = {}, leaf7[3] = {}, eax = 0;
    __get_cpuid_count(1, 0, &eax, &leaf1[kEbx], &leaf1[kEcx], &leaf1[kEdx]);
    __get_cpuid_count(7, 0, &eax, &leaf7[kEbx], &leaf7[kEcx], &leaf7[kEdx]);
    const std::uint64_t saved = saved_registers(leaf1);
    std::vector<std::string> found;
    for (const Feature& feature : kFeatures) {
        const unsigned value = (feature.leaf == 1 ? leaf1 : leaf7)[feature.reg];
        const bool usable = (saved & feature.state) == feature.state;
        if (usable && ((value >> feature.bit) & 1u)) found.emplace_back(feature.name);
    }
    return found;
}

#elif defined(__aarch64__) && defined(__linux__)

std::vector<std::string> cpu_features() {
    struct Feature {
        const char* name;
        int bit;  // of AT_HWCAP, from Linux's arch/arm64 user interface
    };
    constexpr Feature kFeatures[] = {{"asimd", 1},     {"asimddp", 20}, {"asimdfhm", 23}, {"asimdhp", 10},
                                     {"asimdrdm", 12}, {"atomics", 8},  {"crc32", 7},     {"fp", 0},
                                     {"fphp", 9},      {"sve", 22}};
    const unsigned long capabilities = getauxval(AT_HWCAP);
    std::vector<std::string> found;
    for (const Feature& feature : kFeatures) {
        if ((capabilities >> feature.bit) & 1ul) found.emplace_back(feature.name);
    }
    return found;
}

#elif defined(__APPLE__)

std::vector<std::string> cpu_features() {
    return {"asimd", "asimddp", "asimdrdm", "atomics", "crc32", "fp"};
}  // of what we ask for: what every Mac has from the M1 on

#else

std::vector<std::string> cpu_features() {
    return {"asimd", "fp"};
}  // what every 64-bit Arm CPU has

#endif

}  // namespace constann::kernels
