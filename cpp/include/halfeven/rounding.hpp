// Rounding: the table of `numerics/rounding.py`, again.
//
//     rule        -2.5  -1.5  -0.5   0.5   1.5   2.5   in exact arithmetic
//     HALF_EVEN     -2    -2     0     0     2     2   nearest, ties to the even neighbour
//     HALF_UP       -2    -1     0     1     2     3   floor(x + 1/2)
//     HALF_DOWN     -3    -2    -1     0     1     2   ceil(x - 1/2)
//     HALF_AWAY     -3    -2    -1     1     2     3   sign(x) floor(|x| + 1/2)
//     HALF_ZERO     -2    -1     0     0     1     2   sign(x) ceil(|x| - 1/2)
//     HALF_DPU5     -2    -1     0     0     2     2   HALF_UP below zero, HALF_EVEN above
//     FLOOR         -3    -2    -1     0     1     2
//     CEIL          -2    -1     0     1     2     3
//     TRUNC         -2    -1     0     0     1     2
//     SUM_UP, SUM_DOWN, SUM_AWAY, SUM_ZERO: as HALF_ of the same name, but the sum with 1/2 is a rounded float
//
// Only the SUM_ rules add 0.5 to the float, to reproduce tools that do: the sum sends 0.49999997 to 1 and shifts odd
// values beyond 2^23. NaN and infinities pass through; a zero has the sign of `x`, but for the SUM_ rules. C's round() is
// HALF_AWAY and must not stand where ONNX says HALF_EVEN, which is nearbyint() under FE_TONEAREST, the mode a program
// starts with; whoever calls fesetround() restores it before coming here.
#pragma once

#include <math.h>
#include <stdint.h>

#include "halfeven/dispatch.hpp"

namespace halfeven {

enum class Rounding : uint8_t {
    HALF_EVEN,
    HALF_UP,
    HALF_DOWN,
    HALF_AWAY,
    HALF_ZERO,
    HALF_DPU5,
    FLOOR,
    CEIL,
    TRUNC,
    SUM_UP,
    SUM_DOWN,
    SUM_AWAY,
    SUM_ZERO,
};

// <math.h> alone has one name per type; toolchains without a C++ library have no overloads.
inline float floor_of(float x) { return floorf(x); }
inline double floor_of(double x) { return floor(x); }
inline float ceil_of(float x) { return ceilf(x); }
inline double ceil_of(double x) { return ceil(x); }
inline float trunc_of(float x) { return truncf(x); }
inline double trunc_of(double x) { return trunc(x); }
inline float abs_of(float x) { return fabsf(x); }
inline double abs_of(double x) { return fabs(x); }
inline float with_sign_of(float x, float sign) { return copysignf(x, sign); }
inline double with_sign_of(double x, double sign) { return copysign(x, sign); }

inline float half_even(float x) { return nearbyintf(x); }
inline double half_even(double x) { return nearbyint(x); }

template <typename Float>
inline Float half_up(Float x) {
    const Float below = floor_of(x);
    return with_sign_of(below + (x - below >= Float(0.5) ? Float(1) : Float(0)), x);
}

template <typename Float>
inline Float half_down(Float x) {
    return -half_up(-x);
}

template <typename Float>
inline Float half_away(Float x) {
    return with_sign_of(half_up(abs_of(x)), x);
}

template <typename Float>
inline Float half_zero(Float x) {
    return with_sign_of(half_down(abs_of(x)), x);
}

template <typename Float>
inline Float half_dpu5(Float x) {
    return x < Float(0) ? half_up(x) : half_even(x);
}

template <typename Float>
inline Float sum_up(Float x) {
    return floor_of(x + Float(0.5));
}

template <typename Float>
inline Float sum_down(Float x) {
    return ceil_of(x - Float(0.5));
}

// One of the two neighbours: the upper one with probability x - floor(x). `uniform` is drawn from [0, 1).
template <typename Float>
inline Float stochastic(Float x, double uniform) {
    const Float below = floor_of(x);
    const double chance = static_cast<double>(x) - static_cast<double>(below);
    return with_sign_of(below + (uniform < chance ? Float(1) : Float(0)), x);
}

// `x` rounded to an integer, still a float.
template <typename Float>
inline Float rounded(Float x, Rounding rule) {
    switch (rule) {
        case Rounding::HALF_EVEN: return half_even(x);
        case Rounding::HALF_UP: return half_up(x);
        case Rounding::HALF_DOWN: return half_down(x);
        case Rounding::HALF_AWAY: return half_away(x);
        case Rounding::HALF_ZERO: return half_zero(x);
        case Rounding::HALF_DPU5: return half_dpu5(x);
        case Rounding::FLOOR: return floor_of(x);
        case Rounding::CEIL: return ceil_of(x);
        case Rounding::TRUNC: return trunc_of(x);
        case Rounding::SUM_UP: return sum_up(x);
        case Rounding::SUM_DOWN: return sum_down(x);
        case Rounding::SUM_AWAY: return with_sign_of(sum_up(abs_of(x)), x);
        case Rounding::SUM_ZERO: return with_sign_of(sum_down(abs_of(x)), x);
    }
    return x;
}

// Half to even where |x| < 2^22 (float) or 2^51 (double), by one addition that leaves no bits for the fraction: what
// every compiler vectorizes. A zero comes out as +0. The integer is in the low bits of the sum.
constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23
constexpr int32_t ROUNDER_BITS = 0x4b400000;
constexpr double WIDE_ROUNDER = 6755399441055744.0;  // 1.5 * 2^52

HALFEVEN_INLINE float small_half_even(float x) { return (x + ROUNDER) - ROUNDER; }
HALFEVEN_INLINE double small_half_even(double x) { return (x + WIDE_ROUNDER) - WIDE_ROUNDER; }
HALFEVEN_INLINE int32_t small_half_even_int(float x) { return bits_of(x + ROUNDER) - ROUNDER_BITS; }

}  // namespace halfeven
