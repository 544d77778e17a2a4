/* Reads and sets this thread's floating-point control register, as an unruly library would. */
#include <stdint.h>

#if defined(__x86_64__)
uint64_t get_mode(void) {
    return __builtin_ia32_stmxcsr() & 0xffc0u;
}
void set_mode(uint64_t mode) {
    __builtin_ia32_ldmxcsr((unsigned)mode);
}
/* flush-to-zero and denormals-are-zero; rounding up; overflow, underflow, division and invalid unmasked */
uint64_t flushing(void) {
    return 0x9fc0u;
}
uint64_t rounding_up(void) {
    return 0x5f80u;
}
uint64_t unmasked(void) {
    return 0x1000u | 0x0100u;
}
#else
uint64_t get_mode(void) {
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
void set_mode(uint64_t mode) {
    __asm__ volatile("msr fpcr, %0" ::"r"(mode));
}
uint64_t flushing(void) {
    return (1u << 24) | (1u << 25);
}
uint64_t rounding_up(void) {
    return 1u << 22;
}
uint64_t unmasked(void) {
    return (1u << 8) | (1u << 9) | (1u << 10) | (1u << 11);
}
#endif
