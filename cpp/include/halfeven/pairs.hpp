// Sums of products of uint8 by int8 as x86 without VNNI computes them: VPMADDUBSW saturates each sum of two neighbouring
// products to 16 bits.
//
//     acc[m, n] = sum over pairs of k of sat16(a[m, k] b[n, k] + a[m, k + 1] b[n, k + 1])          no zero points
//
// `a` is M x K, `b` N x K, rows of even length: an odd K gets a zero. Where the instruction exists it is used.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "halfeven/dispatch.hpp"
#include "halfeven/gemm.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#define HALFEVEN_MADDUBS 1
#include <immintrin.h>
#endif

namespace halfeven {
namespace reference {

inline int32_t paired(const uint8_t* a, const int8_t* b, size_t count) {
    uint32_t sum = 0;
    for (size_t k = 0; k < count; k += 2) {
        const int32_t both = a[k] * b[k] + a[k + 1] * b[k + 1];
        sum += static_cast<uint32_t>(both > 32767 ? 32767 : both < -32768 ? -32768 : both);
    }
    return static_cast<int32_t>(sum);
}

}  // namespace reference

#if defined(HALFEVEN_MADDUBS)
__attribute__((target("avx2"))) inline int32_t paired_avx2(const uint8_t* a, const int8_t* b, size_t count) {
    __m256i sum = _mm256_setzero_si256();
    const __m256i ones = _mm256_set1_epi16(1);
    size_t k = 0;
    for (; k + 32 <= count; k += 32) {
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + k));
        const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + k));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), ones));
    }
    int32_t lanes[8];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sum);
    uint32_t total = static_cast<uint32_t>(reference::paired(a + k, b + k, count - k));
    for (int32_t lane : lanes) total += static_cast<uint32_t>(lane);
    return static_cast<int32_t>(total);
}
#endif

inline void gemm_paired(const uint8_t* a, const int8_t* b, GemmShape shape, int32_t* acc) {
#if defined(HALFEVEN_MADDUBS)
    const auto dot = __builtin_cpu_supports("avx2") ? paired_avx2 : reference::paired;
#else
    const auto dot = reference::paired;
#endif
    for (size_t m = 0; m < shape.m; ++m)
        for (size_t n = 0; n < shape.n; ++n) acc[m * shape.n + n] = dot(a + m * shape.k, b + n * shape.k, shape.k);
}

}  // namespace halfeven
