// Real numbers to codes and back; `numerics/quantize.py` defines it, this file is its fast form.
//
//     code  = clip(round(x / scale) + zero_point, low, high)        value = (code - zero_point) * scale
//
// The division is a true division, of floats. The quotient saturates as a float, before the zero point is added, and NaN
// gives the lowest code. Codes of 32 bits are rounded in double, where low - zero_point is exact. Every kernel rounds
// half to even; reference::quantize takes any rule.
//
// Holds: scale > 0 and finite; |zero_point| <= 2^20 for 8 and 16 bits. Arrays do not overlap.
//
// One scale per tensor, or one per channel: element (o, c, i) of an array of outer x channels x inner elements has
// channel c. Per tensor is one channel; an NCHW activation per channel is (N, C, H * W), a weight per output channel
// (1, O, I * H * W), a token's row per feature (tokens, features, 1).
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "halfeven/dispatch.hpp"
#include "halfeven/rounding.hpp"

namespace halfeven {

struct CodeRange {
    int32_t low;
    int32_t high;
};

struct Layout {
    size_t outer;
    size_t channels;
    size_t inner;

    size_t channel_of(size_t element) const { return element / inner % channels; }
    size_t size() const { return outer * channels * inner; }
};

// The parameters of one channel, as the loops want them.
struct Step {
    float scale;
    float low;   // lowest code - zero point
    float high;  // highest code - zero point
    int32_t zero_point;
};

inline Step step_of(float scale, int32_t zero_point, CodeRange range) {
    const int64_t low = static_cast<int64_t>(range.low) - zero_point, high = static_cast<int64_t>(range.high) - zero_point;
    return {scale, static_cast<float>(low), static_cast<float>(high), zero_point};
}

// One element; NaN fails each comparison and thus becomes `low`.
template <typename Code>
HALFEVEN_INLINE Code narrow_code(float x, const Step& step) {
    float v = x / step.scale;
    v = v > step.low ? v : step.low;
    v = v < step.high ? v : step.high;
    return static_cast<Code>(small_half_even_int(v) + step.zero_point);
}

HALFEVEN_INLINE float narrow_value(float x, const Step& step) {
    float v = x / step.scale;
    v = v > step.low ? v : step.low;
    v = v < step.high ? v : step.high;
    return small_half_even(v) * step.scale;
}

HALFEVEN_INLINE double wide_steps(float x, float scale, int32_t zero_point, CodeRange range) {
    const double low = static_cast<double>(range.low) - zero_point, high = static_cast<double>(range.high) - zero_point;
    double v = static_cast<double>(x / scale);
    v = v > low ? v : low;
    v = v < high ? v : high;
    return small_half_even(v);
}

namespace reference {

template <typename Float>
inline int64_t steps(Float ratio, int32_t zero_point, CodeRange range, Rounding rule) {
    const Float low = static_cast<Float>(static_cast<int64_t>(range.low) - zero_point);
    const Float high = static_cast<Float>(static_cast<int64_t>(range.high) - zero_point);
    if (!(ratio >= low)) ratio = low;  // NaN too
    if (ratio > high) ratio = high;
    return static_cast<int64_t>(rounded(ratio, rule));
}

// The definition, one element, any rule. Ranges of 24 bits and more are rounded in double.
template <typename Code>
inline Code quantize(float x, float scale, int32_t zero_point, CodeRange range, Rounding rule = Rounding::HALF_EVEN) {
    const float ratio = x / scale;
    const bool wide = static_cast<int64_t>(range.high) - range.low >= (1 << 23);
    const int64_t k = wide ? steps(static_cast<double>(ratio), zero_point, range, rule)
                           : steps(ratio, zero_point, range, rule);
    return static_cast<Code>(k + zero_point);
}

template <typename Code>
inline float dequantize(Code code, float scale, int32_t zero_point) {
    return static_cast<float>(static_cast<int64_t>(code) - zero_point) * scale;
}

inline float fake_quantize(float x, float scale, int32_t zero_point, CodeRange range) {
    return dequantize(quantize<int32_t>(x, scale, zero_point, range), scale, zero_point);
}

}  // namespace reference

// Loops over one run of a channel. Written once here, compiled into each clone below.
template <typename Code>
HALFEVEN_INLINE void quantize_run(const float* __restrict x, size_t count, Step step, Code* __restrict codes) {
    for (size_t i = 0; i < count; ++i) codes[i] = narrow_code<Code>(x[i], step);
}

HALFEVEN_INLINE void quantize_wide_run(const float* __restrict x, size_t count, float scale, int32_t zero_point,
                                       CodeRange range, int32_t* __restrict codes) {
    for (size_t i = 0; i < count; ++i)
        codes[i] = static_cast<int32_t>(wide_steps(x[i], scale, zero_point, range) + zero_point);
}

template <typename Code>
HALFEVEN_INLINE void dequantize_run(const Code* __restrict codes, size_t count, float scale, int32_t zero_point,
                                    float* __restrict x) {
    for (size_t i = 0; i < count; ++i) x[i] = static_cast<float>(codes[i] - zero_point) * scale;
}

HALFEVEN_INLINE void dequantize_wide_run(const int32_t* __restrict codes, size_t count, float scale, int32_t zero_point,
                                         float* __restrict x) {
    for (size_t i = 0; i < count; ++i)  // the difference has 33 bits, exact in double; it is rounded once, to float
        x[i] = static_cast<float>(static_cast<double>(codes[i]) - zero_point) * scale;
}

HALFEVEN_INLINE void fake_quantize_run(const float* __restrict x, size_t count, Step step, float* __restrict values) {
    for (size_t i = 0; i < count; ++i) values[i] = narrow_value(x[i], step);
}

HALFEVEN_INLINE void fake_quantize_wide_run(const float* __restrict x, size_t count, float scale, int32_t zero_point,
                                            CodeRange range, float* __restrict values) {
    for (size_t i = 0; i < count; ++i)
        values[i] = static_cast<float>(wide_steps(x[i], scale, zero_point, range)) * scale;
}

// Where runs are short, the parameters of a stretch of a row are written out element by element, once, and serve that
// stretch of every row. They take 16 bytes an element on the stack: a small device may define a shorter stretch.
#if !defined(HALFEVEN_STRETCH)
#define HALFEVEN_STRETCH 1024
#endif
constexpr size_t SHORT_RUN = 64;
constexpr size_t STRETCH = HALFEVEN_STRETCH;

struct Stretch {
    float scale[STRETCH];
    float low[STRETCH];
    float high[STRETCH];
    int32_t zero_point[STRETCH];

    // Of `count` elements from place `begin` of a row.
    void fill(size_t begin, size_t count, Layout layout, const float* scales, const int32_t* zeros, CodeRange range) {
        size_t c = begin / layout.inner;
        size_t end = (c + 1) * layout.inner - begin;  // of the channel's run
        for (size_t j = 0; j < count; ++c, end += layout.inner) {
            const Step step = step_of(scales[c], zeros[c], range);
            for (const size_t stop = end < count ? end : count; j < stop; ++j) {
                scale[j] = step.scale;
                low[j] = step.low;
                high[j] = step.high;
                zero_point[j] = step.zero_point;
            }
        }
    }

    HALFEVEN_INLINE Step at(size_t j) const { return {scale[j], low[j], high[j], zero_point[j]}; }
};

// Calls work(stretch, begin, count) for each stretch of each row, for layouts of short runs.
template <typename Work>
HALFEVEN_INLINE void by_stretches(Layout layout, const float* scales, const int32_t* zeros, CodeRange range, Work work) {
    const size_t row = layout.channels * layout.inner;
    Stretch stretch;
    for (size_t begin = 0; begin < row; begin += STRETCH) {
        const size_t count = row - begin < STRETCH ? row - begin : STRETCH;
        stretch.fill(begin, count, layout, scales, zeros, range);
        for (size_t o = 0; o < layout.outer; ++o) work(stretch, o * row + begin, count);
    }
}

// Calls work(channel, begin, count) for each run.
template <typename Work>
HALFEVEN_INLINE void by_runs(Layout layout, Work work) {
    for (size_t run = 0; run < layout.outer * layout.channels; ++run)
        work(run % layout.channels, run * layout.inner, layout.inner);
}

template <typename Code>
HALFEVEN_INLINE void quantize_any(const float* __restrict x, Layout layout, const float* scales, const int32_t* zeros,
                                  CodeRange range, Code* __restrict codes) {
    if (layout.inner >= SHORT_RUN || layout.channels == 1) {
        by_runs(layout, [=](size_t c, size_t begin, size_t count) HALFEVEN_INLINED {
            quantize_run(x + begin, count, step_of(scales[c], zeros[c], range), codes + begin);
        });
        return;
    }
    by_stretches(layout, scales, zeros, range, [=](const Stretch& stretch, size_t begin, size_t count) HALFEVEN_INLINED {
        for (size_t j = 0; j < count; ++j) codes[begin + j] = narrow_code<Code>(x[begin + j], stretch.at(j));
    });
}

template <typename Code>
HALFEVEN_INLINE void dequantize_any(const Code* __restrict codes, Layout layout, const float* scales,
                                    const int32_t* zeros, float* __restrict x) {
    if (layout.inner >= SHORT_RUN || layout.channels == 1) {
        by_runs(layout, [=](size_t c, size_t begin, size_t count) HALFEVEN_INLINED {
            dequantize_run(codes + begin, count, scales[c], zeros[c], x + begin);
        });
        return;
    }
    by_stretches(layout, scales, zeros, {0, 0}, [=](const Stretch& stretch, size_t begin, size_t count) HALFEVEN_INLINED {
        for (size_t j = 0; j < count; ++j)
            x[begin + j] = static_cast<float>(codes[begin + j] - stretch.zero_point[j]) * stretch.scale[j];
    });
}

// ---- the kernels -------------------------------------------------------------------------------------------------

HALFEVEN_CLONES static void quantize(const float* x, Layout layout, const float* scales, const int32_t* zeros,
                                     CodeRange range, int8_t* codes) {
    quantize_any(x, layout, scales, zeros, range, codes);
}

HALFEVEN_CLONES static void quantize(const float* x, Layout layout, const float* scales, const int32_t* zeros,
                                     CodeRange range, uint8_t* codes) {
    quantize_any(x, layout, scales, zeros, range, codes);
}

HALFEVEN_CLONES static void quantize(const float* x, Layout layout, const float* scales, const int32_t* zeros,
                                     CodeRange range, int16_t* codes) {
    quantize_any(x, layout, scales, zeros, range, codes);
}

HALFEVEN_CLONES static void quantize(const float* x, Layout layout, const float* scales, const int32_t* zeros,
                                     CodeRange range, uint16_t* codes) {
    quantize_any(x, layout, scales, zeros, range, codes);
}

HALFEVEN_CLONES static void quantize(const float* x, Layout layout, const float* scales, const int32_t* zeros,
                                     CodeRange range, int32_t* codes) {
    by_runs(layout, [=](size_t c, size_t begin, size_t count) HALFEVEN_INLINED {
        quantize_wide_run(x + begin, count, scales[c], zeros[c], range, codes + begin);
    });
}

HALFEVEN_CLONES static void dequantize(const int8_t* codes, Layout layout, const float* scales, const int32_t* zeros,
                                       float* x) {
    dequantize_any(codes, layout, scales, zeros, x);
}

HALFEVEN_CLONES static void dequantize(const uint8_t* codes, Layout layout, const float* scales, const int32_t* zeros,
                                       float* x) {
    dequantize_any(codes, layout, scales, zeros, x);
}

HALFEVEN_CLONES static void dequantize(const int16_t* codes, Layout layout, const float* scales, const int32_t* zeros,
                                       float* x) {
    dequantize_any(codes, layout, scales, zeros, x);
}

HALFEVEN_CLONES static void dequantize(const uint16_t* codes, Layout layout, const float* scales, const int32_t* zeros,
                                       float* x) {
    dequantize_any(codes, layout, scales, zeros, x);
}

HALFEVEN_CLONES static void dequantize(const int32_t* codes, Layout layout, const float* scales, const int32_t* zeros,
                                       float* x) {
    by_runs(layout, [=](size_t c, size_t begin, size_t count) HALFEVEN_INLINED {
        dequantize_wide_run(codes + begin, count, scales[c], zeros[c], x + begin);
    });
}

// dequantize(quantize(x)). Codes of more than 16 bits round in double, as above.
HALFEVEN_CLONES static void fake_quantize(const float* x, Layout layout, const float* scales, const int32_t* zeros,
                                          CodeRange range, float* values) {
    if (static_cast<int64_t>(range.high) - range.low > 65535) {
        by_runs(layout, [=](size_t c, size_t begin, size_t count) HALFEVEN_INLINED {
            fake_quantize_wide_run(x + begin, count, scales[c], zeros[c], range, values + begin);
        });
    } else if (layout.inner >= SHORT_RUN || layout.channels == 1) {
        by_runs(layout, [=](size_t c, size_t begin, size_t count) HALFEVEN_INLINED {
            fake_quantize_run(x + begin, count, step_of(scales[c], zeros[c], range), values + begin);
        });
    } else {
        by_stretches(layout, scales, zeros, range, [=](const Stretch& stretch, size_t begin, size_t count) HALFEVEN_INLINED {
            for (size_t j = 0; j < count; ++j) values[begin + j] = narrow_value(x[begin + j], stretch.at(j));
        });
    }
}

}  // namespace halfeven
