// Matrix product of one- and two-bit codes: exclusive or, and, and counting of ones.
//
//     out[m, n] = K - 2 popcount(a ^ b)                     both codes -1, 1     (XNOR-Net's product)
//                 popcount(a & b)                           both codes 0, 1
//                 popcount(q) - 2 popcount((a ^ b) & q)     any of -1, 0, 1, where q = nonzero(a) & nonzero(b)
//
// a, b are the planes of positive codes: rows of 64-bit words, the first code in the lowest bit, zeros beyond K. The
// counts are exact, so every instruction set gives the same sums. On x86 with AVX-512 and VPOPCNTDQ eight words are
// counted at once; with POPCNT, one; elsewhere pairs, nibbles and bytes are added side by side.
//
// Sources: Rastegari et al. 2016, XNOR-Net, arXiv:1603.05279, section 3.3; Intel's manual, VPOPCNTQ.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "halfeven/dispatch.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#define HALFEVEN_COUNTS_X86 1
#include <immintrin.h>
#endif

namespace halfeven {

enum class BitCodes { SIGN, UNIT, TERNARY };

// `rows` rows of `words` words each; `nonzero` is read for TERNARY alone.
struct BitPlanes {
    const uint64_t* positive;
    const uint64_t* nonzero;
    size_t rows;
};

namespace reference {

inline uint64_t ones(uint64_t word) {
    word -= (word >> 1) & 0x5555555555555555u;
    word = (word & 0x3333333333333333u) + ((word >> 2) & 0x3333333333333333u);
    return (((word + (word >> 4)) & 0x0F0F0F0F0F0F0F0Fu) * 0x0101010101010101u) >> 56;
}

// What is counted of two words: `sum` over the words gives popcount(a ^ b), popcount(a & b), or the whole of TERNARY.
template <BitCodes CODES>
inline int64_t counted(const uint64_t* a, const uint64_t* an, const uint64_t* b, const uint64_t* bn, size_t words) {
    int64_t sum = 0;
    for (size_t k = 0; k < words; ++k) {
        if (CODES == BitCodes::SIGN) {
            sum += static_cast<int64_t>(ones(a[k] ^ b[k]));
        } else if (CODES == BitCodes::UNIT) {
            sum += static_cast<int64_t>(ones(a[k] & b[k]));
        } else {
            const uint64_t both = an[k] & bn[k];
            sum += static_cast<int64_t>(ones(both)) - 2 * static_cast<int64_t>(ones((a[k] ^ b[k]) & both));
        }
    }
    return sum;
}

}  // namespace reference

// Counts of one row of `a` with four rows of `b`, which stand `stride` words apart.
using FourCounts = void (*)(const uint64_t* a, const uint64_t* an, const uint64_t* b, const uint64_t* bn, size_t stride,
                            size_t words, int64_t* out);

template <BitCodes CODES>
inline void four_plain(const uint64_t* a, const uint64_t* an, const uint64_t* b, const uint64_t* bn, size_t stride,
                       size_t words, int64_t* out) {
    for (size_t j = 0; j < 4; ++j) out[j] = reference::counted<CODES>(a, an, b + j * stride, bn + j * stride, words);
}

#if defined(HALFEVEN_COUNTS_X86)
template <BitCodes CODES>
__attribute__((target("popcnt"))) void four_popcnt(const uint64_t* a, const uint64_t* an, const uint64_t* b,
                                                   const uint64_t* bn, size_t stride, size_t words, int64_t* out) {
    for (size_t j = 0; j < 4; ++j, b += stride, bn += stride) {
        int64_t sum = 0;
        for (size_t k = 0; k < words; ++k) {
            if (CODES == BitCodes::SIGN) {
                sum += __builtin_popcountll(a[k] ^ b[k]);
            } else if (CODES == BitCodes::UNIT) {
                sum += __builtin_popcountll(a[k] & b[k]);
            } else {
                const uint64_t both = an[k] & bn[k];
                sum += __builtin_popcountll(both) - 2 * __builtin_popcountll((a[k] ^ b[k]) & both);
            }
        }
        out[j] = sum;
    }
}

// The sums of the eight lanes of each of four vectors, in the first four lanes. The masks take all; without them GCC 12 warns of its own headers.
__attribute__((target("avx512f"))) inline __m512i sums_of(const __m512i* x) {
    const __m512i ab = _mm512_add_epi64(_mm512_maskz_unpacklo_epi64(0xFF, x[0], x[1]),  // pairs of a, b in each lane of 128
                                        _mm512_maskz_unpackhi_epi64(0xFF, x[0], x[1]));
    const __m512i cd = _mm512_add_epi64(_mm512_maskz_unpacklo_epi64(0xFF, x[2], x[3]),
                                        _mm512_maskz_unpackhi_epi64(0xFF, x[2], x[3]));
    const __m512i halves = _mm512_add_epi64(_mm512_maskz_shuffle_i64x2(0xFF, ab, cd, 0x44),  // lanes ab, ab, cd, cd
                                            _mm512_maskz_shuffle_i64x2(0xFF, ab, cd, 0xEE));
    const __m512i whole = _mm512_add_epi64(halves, _mm512_maskz_shuffle_i64x2(0xFF, halves, halves, 0xB1));
    return _mm512_maskz_shuffle_i64x2(0xFF, whole, whole, 0x08);  // an ab, a cd
}

template <BitCodes CODES>
__attribute__((target("avx512f,avx512vpopcntdq"))) void four_vector(const uint64_t* a, const uint64_t* an,
                                                                    const uint64_t* b, const uint64_t* bn, size_t stride,
                                                                    size_t words, int64_t* out) {
    __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    for (size_t k = 0; k < words; k += 8) {
        const __mmask8 held = words - k >= 8 ? 0xFF : static_cast<__mmask8>((1u << (words - k)) - 1);
        const __m512i x = _mm512_maskz_loadu_epi64(held, a + k);
        const __m512i xn = CODES == BitCodes::TERNARY ? _mm512_maskz_loadu_epi64(held, an + k) : x;
        for (size_t j = 0; j < 4; ++j) {
            const __m512i y = _mm512_maskz_loadu_epi64(held, b + j * stride + k);
            if (CODES == BitCodes::SIGN) {
                sum[j] = _mm512_add_epi64(sum[j], _mm512_popcnt_epi64(_mm512_xor_si512(x, y)));
            } else if (CODES == BitCodes::UNIT) {
                sum[j] = _mm512_add_epi64(sum[j], _mm512_popcnt_epi64(_mm512_and_si512(x, y)));
            } else {
                const __m512i both = _mm512_and_si512(xn, _mm512_maskz_loadu_epi64(held, bn + j * stride + k));
                const __m512i minus = _mm512_popcnt_epi64(_mm512_and_si512(_mm512_xor_si512(x, y), both));
                sum[j] = _mm512_add_epi64(sum[j], _mm512_popcnt_epi64(both));
                sum[j] = _mm512_sub_epi64(sum[j], _mm512_add_epi64(minus, minus));
            }
        }
    }
    _mm512_mask_storeu_epi64(out, 0x0F, sums_of(sum));
}
#endif

template <BitCodes CODES>
inline FourCounts four_counts() {
#if defined(HALFEVEN_COUNTS_X86)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vpopcntdq")) return four_vector<CODES>;
    if (__builtin_cpu_supports("popcnt")) return four_popcnt<CODES>;
#endif
    return four_plain<CODES>;
}

// `length`: K. Rows of `b` are taken in turns that stay in the cache while all rows of `a` pass.
template <BitCodes CODES>
inline void bit_product_of(BitPlanes a, BitPlanes b, size_t words, int64_t length, int64_t* out) {
    constexpr size_t CACHED = 32768;  // words
    const FourCounts four = four_counts<CODES>();
    const size_t turn = words < CACHED / 4 ? (CACHED / (words + 1)) / 4 * 4 : 4;
    for (size_t first = 0; first < b.rows; first += turn) {
        const size_t last = b.rows - first < turn ? b.rows : first + turn;
        for (size_t m = 0; m < a.rows; ++m) {
            const uint64_t *x = a.positive + m * words, *xn = a.nonzero + m * words;
            int64_t* to = out + m * b.rows;
            size_t n = first;
            for (; n + 4 <= last; n += 4) four(x, xn, b.positive + n * words, b.nonzero + n * words, words, words, to + n);
            for (; n < last; ++n) to[n] = reference::counted<CODES>(x, xn, b.positive + n * words, b.nonzero + n * words, words);
            if (CODES == BitCodes::SIGN)
                for (size_t j = first; j < last; ++j) to[j] = length - 2 * to[j];
        }
    }
}

inline void bit_product(BitPlanes a, BitPlanes b, size_t words, BitCodes codes, int64_t length, int64_t* out) {
    switch (codes) {
        case BitCodes::SIGN: return bit_product_of<BitCodes::SIGN>(a, b, words, length, out);
        case BitCodes::UNIT: return bit_product_of<BitCodes::UNIT>(a, b, words, length, out);
        case BitCodes::TERNARY: return bit_product_of<BitCodes::TERNARY>(a, b, words, length, out);
    }
}

}  // namespace halfeven
