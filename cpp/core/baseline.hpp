// Included before everything else in the files that every CPU runs: stops a build that would put newer
// instructions there. CMakeLists.txt leaves such flags out of CXXFLAGS; this catches those that come another
// way, as in CXX="g++ -mavx2".
#ifndef CONSTANN_CORE_BASELINE_HPP
#define CONSTANN_CORE_BASELINE_HPP

#if defined(CONSTANN_TUNED)
// Asked for with CONSTANN_BASELINE, and said by `constann doctor`.
#elif defined(__x86_64__)
#if defined(__SSE3__) || defined(__LZCNT__) || defined(__POPCNT__) || defined(__BMI__) ||                  \
    defined(__BMI2__) || defined(__MOVBE__) || defined(__ADX__) || defined(__SHA__) || defined(__AES__) || \
    defined(__RDRND__)
#error \
    "The compiler was told to use instructions that not every x86-64 CPU has: take -m... out of CXX, or set CONSTANN_BASELINE"
#endif
#elif defined(__aarch64__) && !defined(__APPLE__)
#if defined(__ARM_FEATURE_ATOMICS) || defined(__ARM_FEATURE_DOTPROD) || defined(__ARM_FEATURE_SVE) || \
    defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC) || defined(__ARM_FEATURE_CRC32) ||                  \
    defined(__ARM_FEATURE_QRDMX)
#error \
    "The compiler was told to use instructions that not every 64-bit Arm CPU has: take -m... out of CXX, or set CONSTANN_BASELINE"
#endif
#endif

#endif
