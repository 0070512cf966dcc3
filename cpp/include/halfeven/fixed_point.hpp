// The integer primitives of which requantization is made; `numerics/shifts.py` defines them.
//
//     rounding_shift(x, n, rule)   x / 2^n rounded by `rule`, exactly, 0 <= n <= 62
//     shift_half_up(x, n)          (x + 2^(n-1)) >> n: Arm SRSHL, most accelerators
//     shift_half_away(x, n)        gemmlowp's RoundingDivideByPOT
//     high_multiply(a, b)          saturate((2 a b + 2^31) >> 32): Arm SQRDMULH, gemmlowp's doubling high multiply
//     multiply_high_scaled(a, b)   wrap16((a b + 2^14) >> 15): x86 PMULHRSW
//     fused_multiply_add(a, b, c)  float(a b + c), rounded once, whatever the C library's fmaf does
//
// Right shifts of negative numbers are arithmetic, as every compiler has them and C++20 says.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "halfeven/dispatch.hpp"
#include "halfeven/rounding.hpp"

namespace halfeven {

HALFEVEN_INLINE int64_t limited(int64_t x, int64_t low, int64_t high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

HALFEVEN_INLINE int64_t saturate(int64_t x, int bits) {
    return limited(x, -(int64_t{1} << (bits - 1)), (int64_t{1} << (bits - 1)) - 1);
}

// x * 2^n, wrapped to 32 bits; 0 <= n <= 31.
HALFEVEN_INLINE int32_t shift_left(int32_t x, int n) {
    return static_cast<int32_t>(static_cast<uint32_t>(x) << n);
}

// x * 2^n where that has at most 64 bits.
HALFEVEN_INLINE int64_t wide_shift_left(int64_t x, int n) {
    return static_cast<int64_t>(static_cast<uint64_t>(x) << n);
}

// Whether x, whose floor is `below`, goes up at a tie by one of the nearest rules, or goes up at all by the others.
inline bool goes_up(int64_t x, int64_t below, Rounding rule) {
    switch (rule) {
        case Rounding::HALF_EVEN: return (below & 1) != 0;
        case Rounding::HALF_UP: return true;
        case Rounding::HALF_AWAY: return x >= 0;
        case Rounding::HALF_ZERO: return x < 0;
        case Rounding::HALF_DPU5: return x < 0 || (below & 1) != 0;
        case Rounding::CEIL: return true;
        case Rounding::TRUNC: return x < 0;
        default: return false;  // HALF_DOWN, FLOOR; the SUM_ rules are of floats alone
    }
}

inline int64_t rounding_shift(int64_t x, int n, Rounding rule) {
    const int64_t below = x >> n;
    const int64_t rest = x - wide_shift_left(below, n);
    const bool directed = rule == Rounding::FLOOR || rule == Rounding::CEIL || rule == Rounding::TRUNC;
    if (directed) return below + (rest > 0 && goes_up(x, below, rule));
    const int64_t one = int64_t{1} << n;
    return below + (2 * rest > one || (2 * rest == one && goes_up(x, below, rule)));
}

// |x| + 2^(n-1) < 2^63.
HALFEVEN_INLINE int64_t shift_half_up(int64_t x, int n) { return n == 0 ? x : (x + (int64_t{1} << (n - 1))) >> n; }

HALFEVEN_INLINE int32_t shift_half_away(int32_t x, int n) {  // n <= 31
    const int64_t half = n == 0 ? 0 : int64_t{1} << (n - 1);
    return static_cast<int32_t>((static_cast<int64_t>(x) + half - (x < 0 && n > 0)) >> n);
}

HALFEVEN_INLINE int32_t high_multiply(int32_t a, int32_t b) {
    const int64_t up = (static_cast<int64_t>(a) * b + (int64_t{1} << 30)) >> 31;
    return static_cast<int32_t>(up > INT32_MAX ? INT32_MAX : up);  // of -2^31 squared alone
}

HALFEVEN_INLINE int16_t multiply_high_scaled(int16_t a, int16_t b) {
    return static_cast<int16_t>(static_cast<uint16_t>((static_cast<int32_t>(a) * b + (1 << 14)) >> 15));
}

// The product is exact in double. Its sum with c is rounded to odd there (the sum's error, by Knuth's two-sum, tells the
// side on which the exact sum lies), after which rounding to float is right. (Boldo and Melquiond 2008.)
inline float fused_multiply_add(float a, float b, float c) {
    const double product = static_cast<double>(a) * static_cast<double>(b), addend = c;
    const double total = product + addend;
    const double seen = total - product;
    const double error = (product - (total - seen)) + (addend - seen);
    int64_t bits;
    memcpy(&bits, &total, sizeof bits);
    const bool finite = total - total == 0.0;
    if (finite && error != 0.0 && (bits & 1) == 0) bits += (error > 0.0) == (total > 0.0) ? 1 : -1;
    double odd;
    memcpy(&odd, &bits, sizeof odd);
    return static_cast<float>(odd);
}

}  // namespace halfeven
