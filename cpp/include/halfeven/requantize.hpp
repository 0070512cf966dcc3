// Requantization: from an accumulator to a code, in each way that a runtime does it; `numerics/requant.py` defines it.
//
//     code = clip(round(accumulator * M) + zero_point, low, high)          M ~ mantissa * 2^-shift
//
//     flavour             round(acc * M)                                               multiplier
//     DOUBLE_ROUNDING     half_away(high_multiply(acc << l, m) / 2^r)                  31 bits of M, half away
//     NEON                half_up(high_multiply(acc << l, m) / 2^r)                    the same
//     SINGLE_ROUNDING     half_up(acc * m / 2^s)                                       the same, shift limited
//     INT16X8             half_up(acc * m / 2^s), acc of 48 bits                       15 of those bits
//     FLOAT64_HALF_AWAY   half_away(double(acc) * M)                                   M
//     FLOAT32_HALF_EVEN   half_even(float(acc) * float(M)), clipped in float before    float(M)
//     FLOAT32_INSIDE      half_even(float(acc) * float(M) + zero_point)                float(M)
//     FLOAT32_FUSED       half_even(fma(acc, M, zero_point))                           float(M)
//     RNDNU               half_up(acc * m / 2^s)                                       24 bits of float(M)
//     RNDNU16             multiply_high_scaled(saturate16(half_up(acc / 2^p)), m)      15 bits of float(M)
//     QNNPACK             half_away(high_multiply(acc, m) / 2^r)                       24 bits of float(M), << 7
//     Q8_8                half_up(acc * m / 2^8)                                       half_even(256 float(M))
//     SHIFT               rule(acc / 2^k)                                              M = 2^-k
//
//     l = max(31 - s, 0), r = max(s - 31, 0), p = s - 15
//
// `rescale_of` settles M on the host, `requantize` is what the device runs; a device may also hold the numbers in its
// tables and call one primitive. acc << l wraps to 32 bits.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "halfeven/dispatch.hpp"
#include "halfeven/fixed_point.hpp"
#include "halfeven/quantize.hpp"
#include "halfeven/rounding.hpp"

namespace halfeven {

enum class Requant : uint8_t {
    DOUBLE_ROUNDING,
    NEON,
    SINGLE_ROUNDING,
    INT16X8,
    FLOAT64_HALF_AWAY,
    FLOAT32_HALF_EVEN,
    FLOAT32_INSIDE,
    FLOAT32_FUSED,
    RNDNU,
    RNDNU16,
    QNNPACK,
    Q8_8,
    SHIFT,
};

struct Rescale {
    Requant flavour;
    Rounding rule;     // of SHIFT
    int32_t shift;     // s or k of the table; negative: to the left
    int32_t mantissa;  // m of the table
    double real;       // M, in the precision that the flavour takes it in
    bool valid;        // whether the flavour can express M; if not, nothing else here is meant
};

// ---- M as an integer and a shift; `numerics/multiplier.py` -------------------------------------------------------

// 31 bits, half away from zero, and the shift: LiteRT's QuantizeMultiplier.
inline void settle_litert(Rescale& by, bool single_rounding) {
    int exponent = 0;
    int64_t mantissa = static_cast<int64_t>(round(ldexp(frexp(by.real, &exponent), 31)));
    if (mantissa == int64_t{1} << 31) {
        mantissa >>= 1;
        ++exponent;
    }
    if (exponent < -31) mantissa = exponent = 0;
    if (single_rounding && exponent > 30) {
        mantissa = INT32_MAX;
        exponent = 30;
    }
    by.mantissa = static_cast<int32_t>(mantissa);
    by.shift = 31 - exponent;
    by.valid = by.shift >= 0;
}

// The significand of float(M), exactly: 24 bits.
inline void settle_significand(Rescale& by, float below) {
    const float m = static_cast<float>(by.real);
    const int32_t bits = bits_of(m);
    by.mantissa = (bits & 0x7fffff) | 0x800000;
    by.shift = 150 - (bits >> 23);
    by.valid = m >= 2.3283064365386963e-10f && m < below;  // 2^-32
}

inline void settle_shift(Rescale& by) {
    int exponent = 0;
    const bool power = frexp(by.real, &exponent) == 0.5;
    by.mantissa = 1;
    by.shift = 1 - exponent;
    by.valid = power && by.shift >= -30 && by.shift <= 62 && by.rule <= Rounding::TRUNC;
}

inline void settle_integers(Rescale& by) {
    switch (by.flavour) {
        case Requant::DOUBLE_ROUNDING:
        case Requant::NEON: return settle_litert(by, false);
        case Requant::SINGLE_ROUNDING: return settle_litert(by, true);
        case Requant::INT16X8:
            settle_litert(by, false);
            by.mantissa = by.mantissa < 0x7fff0000 ? (by.mantissa + (1 << 15)) >> 16 : 0x7fff;
            by.shift -= 16;
            by.valid = by.shift >= 1;
            return;
        case Requant::RNDNU: return settle_significand(by, 256.0f);
        case Requant::RNDNU16:
            settle_significand(by, 256.0f);
            by.mantissa = static_cast<int32_t>(limited((by.mantissa + 256) >> 9, 0, 32767));
            by.shift -= 9;
            return;
        case Requant::QNNPACK:
            settle_significand(by, 1.0f);
            by.mantissa <<= 7;
            by.shift += 7;
            return;
        case Requant::Q8_8: {
            const float m = static_cast<float>(by.real);
            by.valid = m >= 0.00390625f && m <= 128.0f;
            by.mantissa = by.valid ? static_cast<int32_t>(half_even(m * 256.0f)) : 0;
            by.shift = 8;
            return;
        }
        case Requant::SHIFT: return settle_shift(by);
        default: by.valid = true;
    }
}

// M for the flavour; `real` > 0 and finite. `rule` matters to SHIFT alone, and is none of the SUM_ rules.
inline Rescale rescale_of(double real, Requant flavour, Rounding rule = Rounding::HALF_UP) {
    Rescale by = {flavour, rule, 0, 0, real, false};
    if (real > 0.0 && real <= DBL_MAX) settle_integers(by);
    return by;
}

// ---- the primitives, for one accumulator -------------------------------------------------------------------------

HALFEVEN_INLINE int32_t multiplied_high(int32_t acc, int32_t mantissa, int shift) {
    return high_multiply(shift < 31 ? shift_left(acc, 31 - shift) : acc, mantissa);
}

HALFEVEN_INLINE int64_t double_rounding(int32_t acc, int32_t mantissa, int shift) {
    return shift_half_away(multiplied_high(acc, mantissa, shift), shift > 31 ? shift - 31 : 0);
}

HALFEVEN_INLINE int64_t neon_rounding(int32_t acc, int32_t mantissa, int shift) {
    return shift_half_up(multiplied_high(acc, mantissa, shift), shift > 31 ? shift - 31 : 0);
}

// SINGLE_ROUNDING, INT16X8, RNDNU, Q8_8.
HALFEVEN_INLINE int64_t one_rounding(int64_t acc, int32_t mantissa, int shift) {
    return shift_half_up(acc * mantissa, shift);
}

HALFEVEN_INLINE int64_t rounding_16(int32_t acc, int32_t mantissa, int shift) {
    const int64_t ready = shift < 15 ? wide_shift_left(acc, 15 - shift) : shift_half_up(acc, shift - 15);
    return multiply_high_scaled(static_cast<int16_t>(saturate(ready, 16)), static_cast<int16_t>(mantissa));
}

HALFEVEN_INLINE int64_t shifted(int64_t acc, int shift, Rounding rule) {
    return shift < 0 ? wide_shift_left(acc, -shift) : rounding_shift(acc, shift, rule);
}

HALFEVEN_INLINE int64_t in_float64(int32_t acc, double real) {
    const double scaled = half_away(static_cast<double>(acc) * real);
    const double most = 2147483648.0;
    return static_cast<int64_t>(scaled > most ? most : scaled < -most ? -most : scaled);
}

HALFEVEN_INLINE int64_t in_float32(int32_t acc, float real, int32_t zero_point, CodeRange range) {
    const Step step = step_of(real, zero_point, range);
    float v = static_cast<float>(acc) * real;
    v = v > step.low ? v : step.low;
    v = v < step.high ? v : step.high;
    return static_cast<int64_t>(half_even(v)) + zero_point;
}

// A float total to a code; |low| and |high| below 2^24.
HALFEVEN_INLINE int64_t float_total(float total, CodeRange range) {
    float k = half_even(total);
    k = k > static_cast<float>(range.low) ? k : static_cast<float>(range.low);
    k = k < static_cast<float>(range.high) ? k : static_cast<float>(range.high);
    return static_cast<int64_t>(k);
}

// One code. `acc` has 32 bits, for INT16X8 48.
inline int32_t requantize(int64_t acc, const Rescale& by, int32_t zero_point, CodeRange range) {
    const int32_t a = static_cast<int32_t>(acc);
    const float real = static_cast<float>(by.real);
    int64_t k = 0;
    switch (by.flavour) {
        case Requant::DOUBLE_ROUNDING:
        case Requant::QNNPACK: k = double_rounding(a, by.mantissa, by.shift); break;
        case Requant::NEON: k = neon_rounding(a, by.mantissa, by.shift); break;
        case Requant::SINGLE_ROUNDING:
        case Requant::RNDNU:
        case Requant::Q8_8: k = one_rounding(a, by.mantissa, by.shift); break;
        case Requant::INT16X8: k = saturate(one_rounding(acc, by.mantissa, by.shift), 32); break;
        case Requant::FLOAT64_HALF_AWAY: k = in_float64(a, by.real); break;
        case Requant::RNDNU16: k = rounding_16(a, by.mantissa, by.shift); break;
        case Requant::SHIFT: k = shifted(a, by.shift, by.rule); break;
        case Requant::FLOAT32_HALF_EVEN: return static_cast<int32_t>(in_float32(a, real, zero_point, range));
        case Requant::FLOAT32_INSIDE: {
            const float product = static_cast<float>(a) * real;  // a variable of its own: no fused sum
            return static_cast<int32_t>(float_total(product + static_cast<float>(zero_point), range));
        }
        case Requant::FLOAT32_FUSED: {
            const float zero = static_cast<float>(zero_point);
            return static_cast<int32_t>(float_total(fused_multiply_add(static_cast<float>(a), real, zero), range));
        }
    }
    return static_cast<int32_t>(limited(k + zero_point, range.low, range.high));
}

// ---- arrays: a vector loop for the flavours of the large runtimes, the primitives for the others ---------------------

template <typename Code>
HALFEVEN_INLINE void requantize_run(const int32_t* __restrict acc, size_t count, const Rescale& by, int32_t zero_point,
                                    CodeRange range, Code* __restrict codes) {
    const int32_t m = by.mantissa;
    const int s = by.shift;
    if (by.flavour == Requant::FLOAT32_HALF_EVEN) {
        const float real = static_cast<float>(by.real);
        const Step step = step_of(real, zero_point, range);
        for (size_t i = 0; i < count; ++i) {
            float v = static_cast<float>(acc[i]) * real;
            v = v > step.low ? v : step.low;
            v = v < step.high ? v : step.high;
            codes[i] = static_cast<Code>(small_half_even_int(v) + zero_point);
        }
    } else if (by.flavour == Requant::DOUBLE_ROUNDING || by.flavour == Requant::QNNPACK) {
        for (size_t i = 0; i < count; ++i)
            codes[i] = static_cast<Code>(limited(double_rounding(acc[i], m, s) + zero_point, range.low, range.high));
    } else if (by.flavour == Requant::NEON) {
        for (size_t i = 0; i < count; ++i)
            codes[i] = static_cast<Code>(limited(neon_rounding(acc[i], m, s) + zero_point, range.low, range.high));
    } else if (by.flavour == Requant::SINGLE_ROUNDING || by.flavour == Requant::RNDNU) {
        for (size_t i = 0; i < count; ++i)
            codes[i] = static_cast<Code>(limited(one_rounding(acc[i], m, s) + zero_point, range.low, range.high));
    } else {
        for (size_t i = 0; i < count; ++i) codes[i] = static_cast<Code>(requantize(acc[i], by, zero_point, range));
    }
}

// `by` has one element per channel; codes of at most 16 bits.
HALFEVEN_CLONES static void requantize(const int32_t* acc, Layout layout, const Rescale* by, int32_t zero_point,
                                       CodeRange range, int8_t* codes) {
    for (size_t run = 0; run < layout.outer * layout.channels; ++run)
        requantize_run(acc + run * layout.inner, layout.inner, by[run % layout.channels], zero_point, range,
                       codes + run * layout.inner);
}

HALFEVEN_CLONES static void requantize(const int32_t* acc, Layout layout, const Rescale* by, int32_t zero_point,
                                       CodeRange range, uint8_t* codes) {
    for (size_t run = 0; run < layout.outer * layout.channels; ++run)
        requantize_run(acc + run * layout.inner, layout.inner, by[run % layout.channels], zero_point, range,
                       codes + run * layout.inner);
}

HALFEVEN_CLONES static void requantize(const int32_t* acc, Layout layout, const Rescale* by, int32_t zero_point,
                                       CodeRange range, int16_t* codes) {
    for (size_t run = 0; run < layout.outer * layout.channels; ++run)
        requantize_run(acc + run * layout.inner, layout.inner, by[run % layout.channels], zero_point, range,
                       codes + run * layout.inner);
}

}  // namespace halfeven
