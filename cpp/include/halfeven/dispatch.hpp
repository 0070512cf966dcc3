// One source, several instruction sets.
//
// HALFEVEN_CLONES before a function makes GCC on x86-64 Linux compile it for AVX-512, AVX2 and the baseline, and pick
// one when the module is loaded. It needs ifunc, thus glibc. Elsewhere it is empty: NEON is the baseline on arm64, and
// SSE2 is what other x86-64 compilers then use. No clone may change a result: integer kernels are exact, float kernels
// fix their order of summation and are built without contraction and without fast-math.
#pragma once

#include <float.h>
#include <stdint.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "Halfeven's kernels need IEEE arithmetic: build without -ffast-math"
#endif
#if defined(FLT_EVAL_METHOD) && (FLT_EVAL_METHOD == 1 || FLT_EVAL_METHOD == 2)
#error "Halfeven's kernels need float expressions evaluated as float: on 32-bit x86 build with -msse2 -mfpmath=sse"
#endif

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    __GNUC__ >= 12 && !defined(__SANITIZE_ADDRESS__)
#define HALFEVEN_CLONES __attribute__((unused, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#elif defined(__GNUC__)
#define HALFEVEN_CLONES __attribute__((unused))
#else
#define HALFEVEN_CLONES
#endif

// A body that is written once and compiled into each clone that calls it.
#if defined(__GNUC__)
#define HALFEVEN_INLINED __attribute__((always_inline))
#else
#define HALFEVEN_INLINED
#endif
#define HALFEVEN_INLINE inline HALFEVEN_INLINED

namespace halfeven {

inline int32_t bits_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float float_of(int32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

}  // namespace halfeven
