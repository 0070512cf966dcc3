// One source, several instruction sets.
//
// HALFEVEN_CLONES before a function makes GCC on x86-64 Linux compile it for AVX-512, AVX2 and the baseline, and pick
// one when the module is loaded. It needs ifunc, thus glibc. Elsewhere it is empty: NEON is the baseline on arm64, and
// SSE2 is what other x86-64 compilers then use. No clone may change a result: integer kernels are exact, float kernels
// fix their order of summation and are built without contraction and without fast-math.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    __GNUC__ >= 12 && !defined(__SANITIZE_ADDRESS__)
#define HALFEVEN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define HALFEVEN_CLONES
#endif

namespace halfeven {

inline std::int32_t bits_of(float x) {
    std::int32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float float_of(std::int32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

}  // namespace halfeven
