// Fake quantization of a clamped tensor with one scale, and its gradients, by several threads: what training does to each
// activation. `numerics/lsq.py` defines it, this file is its fast form.
//
//     value = fake_quantize(c)      c = x held to the clamp's ends; NaN stays NaN
//     gradients as in lsq.hpp, of c; that of x is 0 unless low < x < high of the clamp
//
// So a clamp (ReLU, ReLU6) in front of a quantizer costs no pass and no tensor of its own. Ends of -infinity and infinity
// are no clamp. Sums are those of lsq.hpp, block after block, whatever the number of threads. For codes of at most 16 bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "halfeven/crew.hpp"
#include "halfeven/dispatch.hpp"
#include "halfeven/lsq.hpp"
#include "halfeven/quantize.hpp"

namespace halfeven {

struct Clamp {
    float low;
    float high;

    HALFEVEN_INLINE float held(float x) const {  // written so that NaN passes
        x = low > x ? low : x;
        return high < x ? high : x;
    }
    HALFEVEN_INLINE bool passes(float x) const { return (x > low) & (x < high); }
};

namespace reference {

inline void fake_quantize_clamped(const float* x, std::size_t count, float scale, std::int32_t zero_point, CodeRange range,
                                  Clamp clamp, float* values) {
    for (std::size_t i = 0; i < count; ++i) values[i] = reference::fake_quantize(clamp.held(x[i]), scale, zero_point, range);
}

inline void lsq_backward_clamped(const float* x, const float* g, std::size_t count, float scale, std::int32_t zero_point,
                                 CodeRange range, Clamp clamp, Gradients out) {
    std::vector<float> held(count);
    for (std::size_t i = 0; i < count; ++i) held[i] = clamp.held(x[i]);
    reference::lsq_backward(held.data(), g, {1, 1, count}, &scale, &zero_point, range, out);
    for (std::size_t i = 0; i < count; ++i) out.x[i] = clamp.passes(x[i]) ? out.x[i] : 0.0f;
}

}  // namespace reference

// Elements of one task: enough to be worth a thread, few enough to share out; a multiple of LSQ_BLOCK.
constexpr std::size_t TASK = 1 << 16;

HALFEVEN_CLONES static void fake_quantize_task(const float* __restrict x, std::size_t count, Step step, Clamp clamp,
                                               float* __restrict values) {
    for (std::size_t i = 0; i < count; ++i) values[i] = narrow_value(clamp.held(x[i]), step);
}

// The gradient of x alone, where neither scale nor zero point is learned.
HALFEVEN_CLONES static void pass_task(const float* __restrict x, const float* __restrict g, std::size_t count, Step step,
                                      Clamp clamp, float* __restrict grad_x) {
    for (std::size_t i = 0; i < count; ++i) {
        const float r = clamp.held(x[i]) / step.scale, own = g[i];
        const bool inside = (r > step.low) & (r < step.high);
        const float between = inside ? own : 0.0f;
        grad_x[i] = clamp.passes(x[i]) ? between : 0.0f;
    }
}

// One sum for each block of the task.
HALFEVEN_CLONES static void lsq_task(const float* __restrict x, const float* __restrict g, std::size_t count, Step step,
                                     Clamp clamp, float* __restrict grad_x, Sums* __restrict sums) {
    float products[LSQ_BLOCK], outside[LSQ_BLOCK];
    for (std::size_t i = 0; i < count; i += LSQ_BLOCK, ++sums) {
        const std::size_t size = count - i < LSQ_BLOCK ? count - i : LSQ_BLOCK;
        for (std::size_t j = 0; j < size; ++j) {
            float own;
            lsq_element(clamp.held(x[i + j]), g[i + j], step, own, products[j], outside[j]);
            grad_x[i + j] = clamp.passes(x[i + j]) ? own : 0.0f;
        }
        *sums = {static_cast<double>(block_sum(products, size)), static_cast<double>(block_sum(outside, size))};
    }
}

// Calls work(begin, count) for each task.
template <typename Work>
void by_tasks(std::size_t count, int threads, Work work) {
    Crew::get().run(threads, (count + TASK - 1) / TASK, [&](std::size_t task) {
        const std::size_t begin = task * TASK;
        work(begin, count - begin < TASK ? count - begin : TASK);
    });
}

inline void fake_quantize_clamped(const float* x, std::size_t count, float scale, std::int32_t zero_point, CodeRange range,
                                  Clamp clamp, int threads, float* values) {
    const Step step = step_of(scale, zero_point, range);
    by_tasks(count, threads, [=](std::size_t begin, std::size_t size) {
        fake_quantize_task(x + begin, size, step, clamp, values + begin);
    });
}

// `out.scale` may be null: then only the gradient of x is computed.
inline void lsq_backward_clamped(const float* x, const float* g, std::size_t count, float scale, std::int32_t zero_point,
                                 CodeRange range, Clamp clamp, int threads, Gradients out) {
    const Step step = step_of(scale, zero_point, range);
    if (out.scale == nullptr) {
        by_tasks(count, threads, [=](std::size_t begin, std::size_t size) {
            pass_task(x + begin, g + begin, size, step, clamp, out.x + begin);
        });
        return;
    }
    std::vector<Sums> sums((count + LSQ_BLOCK - 1) / LSQ_BLOCK);
    Sums* const blocks = sums.data();
    by_tasks(count, threads, [=](std::size_t begin, std::size_t size) {
        lsq_task(x + begin, g + begin, size, step, clamp, out.x + begin, blocks + begin / LSQ_BLOCK);
    });
    Sums total = {0.0, 0.0};
    for (const Sums& one : sums) {
        total.scale += one.scale;
        total.outside += one.outside;
    }
    finish(total, scale, 0, out);
}

}  // namespace halfeven
