// See dispatch.hpp. The choice is made at the first use, not by a static initialiser.
#include "kernels/dispatch.hpp"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <stdexcept>
#include <string>

#include "kernels/cpu_features.hpp"

namespace constann::kernels {

namespace scalar {
extern const KernelTable table;
}
#if defined(__x86_64__)
namespace baseline {
extern const KernelTable table;
}
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
namespace avx512vnni {
extern const KernelTable table;
}
#elif defined(__aarch64__)
namespace neon {
extern const KernelTable table;
}
namespace neon_dotprod {
extern const KernelTable table;
}
#else
#error "Constann knows x86-64 and 64-bit Arm: docs/adding-a-kernel.md says how to add another architecture"
#endif

namespace {

constexpr Implementation kImplementations[] = {
    {&scalar::table, "plain loops, the reference", ""},
#if defined(__x86_64__)
    {&baseline::table, "SSE2, which every x86-64 CPU has", ""},
    {&avx2::table, "AVX2", "sse4_2 popcnt avx avx2"},
    {&avx512::table, "AVX-512 (F, BW, DQ, VL)",
     "sse4_2 popcnt avx avx2 fma f16c avx512f avx512bw avx512dq avx512vl"},
    {&avx512vnni::table, "AVX-512 with sums of products of bytes (VNNI)",
     "sse4_2 popcnt avx avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni"},
#elif defined(__aarch64__)
    {&neon::table, "NEON, which every 64-bit Arm CPU has", ""},
    {&neon_dotprod::table, "NEON with dot products of bytes (Armv8.2)", "asimddp asimdrdm atomics crc32"},
#endif
};

constinit std::atomic<const KernelTable*> in_use{nullptr};

std::string names_that_run() {
    std::string names;
    for (const Implementation& implementation : kImplementations) {
        if (supported(implementation))
            names += (names.empty() ? "" : ", ") + std::string(implementation.table->name);
    }
    return names;
}

const KernelTable* fastest() {
    // From the fastest down: asking the CPU takes long on a virtual machine.
    for (std::size_t i = std::size(kImplementations); i-- > 0;) {
        if (supported(kImplementations[i])) return kImplementations[i].table;
    }
    return &scalar::table;
}

}  // namespace

std::span<const Implementation> implementations() noexcept {
    return kImplementations;
}

std::string missing_feature(const Implementation& implementation) {
    if (*implementation.requires_features == '\0') return {};
    const std::vector<std::string> have = cpu_features();
    std::string_view rest = implementation.requires_features;
    while (!rest.empty()) {
        const std::string_view one = rest.substr(0, rest.find(' '));
        if (std::find(have.begin(), have.end(), one) == have.end()) return std::string(one);
        rest.remove_prefix(std::min(rest.size(), one.size() + 1));
    }
    return {};
}

bool supported(const Implementation& implementation) {
    return missing_feature(implementation).empty();
}

const KernelTable& active() {
    const KernelTable* table = in_use.load(std::memory_order_acquire);
    if (table == nullptr) {
        const KernelTable* best = fastest();
        // Where another thread forced a set meanwhile, its choice stands.
        if (in_use.compare_exchange_strong(table, best, std::memory_order_acq_rel)) table = best;
    }
    return *table;
}

const KernelTable& named(std::string_view name) {
    for (const Implementation& implementation : kImplementations) {
        if (implementation.table->name != name) continue;
        const std::string missing = missing_feature(implementation);
        if (missing.empty()) return *implementation.table;
        throw std::invalid_argument("this CPU cannot run the kernels '" + std::string(name) + "': it lacks " +
                                    missing + "; it can run: " + names_that_run());
    }
    throw std::invalid_argument("there are no kernels named '" + std::string(name) +
                                "'; this CPU can run: " + names_that_run());
}

void use(std::string_view name) {
    in_use.store(&named(name), std::memory_order_release);
}

void use_fastest() noexcept {
    in_use.store(nullptr, std::memory_order_release);
}

}  // namespace constann::kernels
