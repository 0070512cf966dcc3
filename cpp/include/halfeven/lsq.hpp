// The gradients of fake quantization; `numerics/lsq.py` defines them, this file is their fast form.
//
// With r = x / scale, the codes' ends low and high less the zero point, v = clip(r) and the gradient g of the output:
//
//     inside = low < r < high                        gradient of x            g if inside, else 0
//     t = rne(v) - v if inside, else v               gradient of scale        sum of g * t
//                                                    gradient of zero point   -scale * sum of g where not inside
//
// (Esser et al. 2020, arXiv:1902.08153, equations 3 and 5; the zero point as in LSQ+, Bhalgat et al. 2020,
// arXiv:2004.09576.) A run of a channel is summed in blocks: within a block in float, in LSQ_LANES lanes, element i going
// to lane i mod LSQ_LANES, the lanes then folded in halves; the blocks' sums, row after row, in double. So the bits are
// the same in every clone and in NumPy. For codes of at most 16 bits.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "halfeven/dispatch.hpp"
#include "halfeven/quantize.hpp"

namespace halfeven {

constexpr size_t LSQ_LANES = 32;
constexpr size_t LSQ_BLOCK = 512;  // a multiple of the lanes

struct Gradients {
    float* x;           // shape of x
    float* scale;       // one per channel
    float* zero_point;  // one per channel
};

struct Sums {
    double scale;    // of g * t
    double outside;  // of g beyond the ends
};

inline void finish(Sums sums, float scale, size_t channel, Gradients out) {
    out.scale[channel] = static_cast<float>(sums.scale);
    out.zero_point[channel] = static_cast<float>(-static_cast<double>(scale) * sums.outside + 0.0);
}

HALFEVEN_INLINE float fold(float* lanes) {
    for (size_t width = LSQ_LANES / 2; width > 0; width /= 2)
        for (size_t j = 0; j < width; ++j) lanes[j] += lanes[j + width];
    return lanes[0];
}

namespace reference {

// One block of one run.
inline void lsq_block(const float* x, const float* g, size_t count, Step step, float* grad_x, Sums& sums) {
    float scale[LSQ_LANES] = {}, outside[LSQ_LANES] = {};
    for (size_t i = 0; i < count; ++i) {
        const float r = x[i] / step.scale;
        const bool inside = step.low < r && r < step.high;
        const float end = r >= step.high ? step.high : step.low;
        const float t = inside ? half_even(r) - r : end;
        grad_x[i] = inside ? g[i] : 0.0f;
        scale[i % LSQ_LANES] += g[i] * t;
        outside[i % LSQ_LANES] += inside ? 0.0f : g[i];
    }
    sums.scale += static_cast<double>(fold(scale));
    sums.outside += static_cast<double>(fold(outside));
}

inline void lsq_backward(const float* x, const float* g, Layout layout, const float* scales, const int32_t* zeros,
                         CodeRange range, Gradients out) {
    for (size_t c = 0; c < layout.channels; ++c) {
        Sums sums = {0.0, 0.0};
        const Step step = step_of(scales[c], zeros[c], range);
        for (size_t o = 0; o < layout.outer; ++o) {
            for (size_t i = 0; i < layout.inner; i += LSQ_BLOCK) {
                const size_t at = (o * layout.channels + c) * layout.inner + i;
                const size_t size = layout.inner - i < LSQ_BLOCK ? layout.inner - i : LSQ_BLOCK;
                lsq_block(x + at, g + at, size, step, out.x + at, sums);
            }
        }
        finish(sums, step.scale, c, out);
    }
}

}  // namespace reference

HALFEVEN_INLINE void lsq_element(float x, float g, const Step& step, float& grad_x, float& product, float& outside) {
    const float r = x / step.scale;
    float v = r > step.low ? r : step.low;
    v = v < step.high ? v : step.high;
    const bool inside = r > step.low && r < step.high;
    product = g * (inside ? small_half_even(v) - v : v);
    grad_x = inside ? g : 0.0f;
    outside = inside ? 0.0f : g;
}

// The same of at most LSQ_LANES terms, each the only one of its lane: the lanes without a term are not added.
HALFEVEN_INLINE float fold_few(float* terms, size_t count) {
    for (size_t width = LSQ_LANES / 2; width > 0; width /= 2) {
        for (size_t j = 0; j + width < count; ++j) terms[j] += terms[j + width];
        count = count < width ? count : width;
    }
    return terms[0];
}

HALFEVEN_INLINE float block_sum(float* terms, size_t count) {
    if (count > 0 && count <= LSQ_LANES) return fold_few(terms, count);
    float lanes[LSQ_LANES] = {};
    size_t i = 0;
    for (; i + LSQ_LANES <= count; i += LSQ_LANES)
        for (size_t j = 0; j < LSQ_LANES; ++j) lanes[j] += terms[i + j];
    for (size_t j = 0; i + j < count; ++j) lanes[j] += terms[i + j];
    return fold(lanes);
}

HALFEVEN_INLINE void lsq_run(const float* __restrict x, const float* __restrict g, size_t count, Step step,
                             float* __restrict grad_x, Sums& sums) {
    float products[LSQ_BLOCK], outside[LSQ_BLOCK];
    for (size_t i = 0; i < count; i += LSQ_BLOCK) {
        const size_t size = count - i < LSQ_BLOCK ? count - i : LSQ_BLOCK;
        for (size_t j = 0; j < size; ++j) lsq_element(x[i + j], g[i + j], step, grad_x[i + j], products[j], outside[j]);
        sums.scale += static_cast<double>(block_sum(products, size));
        sums.outside += static_cast<double>(block_sum(outside, size));
    }
}

// Short runs: a stretch of the row is the vector, and each channel in it then sums its own few terms.
HALFEVEN_INLINE void lsq_rows(const float* __restrict x, const float* __restrict g, Layout layout, const float* scales,
                              const int32_t* zeros, CodeRange range, Gradients out) {
    const size_t row = layout.channels * layout.inner;
    const size_t most = STRETCH / layout.inner * layout.inner;  // whole channels
    Stretch stretch;
    Sums sums[STRETCH];
    float products[STRETCH], outside[STRETCH];
    for (size_t begin = 0; begin < row; begin += most) {
        const size_t count = row - begin < most ? row - begin : most, channels = count / layout.inner;
        stretch.fill(begin, count, layout, scales, zeros, range);
        for (size_t c = 0; c < channels; ++c) sums[c] = {0.0, 0.0};
        for (size_t o = 0; o < layout.outer; ++o) {
            const size_t at = o * row + begin;
            for (size_t j = 0; j < count; ++j)
                lsq_element(x[at + j], g[at + j], stretch.at(j), out.x[at + j], products[j], outside[j]);
            if (layout.inner == 1) {
                for (size_t c = 0; c < channels; ++c) {
                    sums[c].scale += static_cast<double>(products[c]);
                    sums[c].outside += static_cast<double>(outside[c]);
                }
                continue;
            }
            for (size_t c = 0; c < channels; ++c) {
                sums[c].scale += static_cast<double>(block_sum(products + c * layout.inner, layout.inner));
                sums[c].outside += static_cast<double>(block_sum(outside + c * layout.inner, layout.inner));
            }
        }
        for (size_t c = 0; c < channels; ++c)
            finish(sums[c], stretch.scale[c * layout.inner], begin / layout.inner + c, out);
    }
}

HALFEVEN_CLONES static void lsq_backward(const float* x, const float* g, Layout layout, const float* scales,
                                         const int32_t* zeros, CodeRange range, Gradients out) {
    if (layout.inner > 0 && layout.inner < SHORT_RUN && layout.channels > 1) {
        lsq_rows(x, g, layout, scales, zeros, range, out);
        return;
    }
    for (size_t c = 0; c < layout.channels; ++c) {
        Sums sums = {0.0, 0.0};
        const Step step = step_of(scales[c], zeros[c], range);
        for (size_t o = 0; o < layout.outer; ++o) {
            const size_t at = (o * layout.channels + c) * layout.inner;
            lsq_run(x + at, g + at, layout.inner, step, out.x + at, sums);
        }
        finish(sums, step.scale, c, out);
    }
}

}  // namespace halfeven
