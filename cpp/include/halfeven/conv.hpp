// Integer convolution in two dimensions, with groups, zero points and bias, in 32-bit accumulators.
//
//     acc[n, o, y, x] = bias[o] + sum over c, i, j of (in[n, g C + c, y s - p + i d, x s' - p' + j d'] - zi)
//                                                     * (weight[o, c, i, j] - zw[o])          g = o / (O / groups)
//
// Arrays are NCHW and OIHW. Padding is the code zi, the real number 0, and so adds nothing. The sum is modulo 2^32, as in
// gemm.hpp. `conv` copies the patches under the weights of a group into the caller's workspace, a row per output
// position, and multiplies (im2col); a depthwise group is one row of weights, for which the reference's loops are as good.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "halfeven/dispatch.hpp"
#include "halfeven/gemm.hpp"

namespace halfeven {

// One spatial axis.
struct Window {
    size_t in;
    size_t kernel;
    size_t stride;
    size_t dilation;
    size_t pad_begin;
    size_t pad_end;

    // Output positions; 0 if the kernel does not fit.
    size_t out() const {
        const size_t padded = in + pad_begin + pad_end, span = dilation * (kernel - 1) + 1;
        return padded < span ? 0 : (padded - span) / stride + 1;
    }

    // The input under tap `tap` of output `at`, or `in` or beyond if that is padding (unsigned, it wraps below 0).
    size_t under(size_t at, size_t tap) const { return at * stride + tap * dilation - pad_begin; }
};

struct ConvShape {
    size_t batch;
    size_t in_channels;
    size_t out_channels;
    size_t groups;
    Window y;
    Window x;

    size_t group_in() const { return in_channels / groups; }
    size_t group_out() const { return out_channels / groups; }
    size_t positions() const { return y.out() * x.out(); }
    size_t patch() const { return group_in() * y.kernel * x.kernel; }
};

struct ConvOffsets {
    int32_t in_zero_point;
    const int32_t* weight_zero_points;  // one per output channel, or null: all zeros
    const int32_t* bias;                // one per output channel, or null: all zeros
};

namespace reference {

template <typename In, typename Weight>
inline int64_t conv_sum(const In* in, const Weight* weight, const ConvShape& shape, int64_t zi, int64_t zw, size_t row,
                        size_t column) {
    int64_t sum = 0;
    for (size_t c = 0; c < shape.group_in(); ++c) {
        for (size_t i = 0; i < shape.y.kernel; ++i) {
            for (size_t j = 0; j < shape.x.kernel; ++j) {
                const size_t y = shape.y.under(row, i), x = shape.x.under(column, j);
                if (y >= shape.y.in || x >= shape.x.in) continue;
                const int64_t value = in[(c * shape.y.in + y) * shape.x.in + x];
                sum += (value - zi) * (weight[(c * shape.y.kernel + i) * shape.x.kernel + j] - zw);
            }
        }
    }
    return sum;
}

// False if some sum does not fit in 32 bits; that accumulator is then the sum modulo 2^32.
template <typename In, typename Weight>
inline bool conv(const In* in, const Weight* weight, const ConvShape& shape, ConvOffsets offsets, int32_t* acc) {
    bool fits = true;
    for (size_t n = 0; n < shape.batch; ++n) {
        for (size_t o = 0; o < shape.out_channels; ++o) {
            const size_t first = n * shape.in_channels + o / shape.group_out() * shape.group_in();
            const int64_t zw = offsets.weight_zero_points ? offsets.weight_zero_points[o] : 0;
            for (size_t at = 0; at < shape.positions(); ++at) {
                const int64_t sum = (offsets.bias ? offsets.bias[o] : 0) +
                                    conv_sum(in + first * shape.y.in * shape.x.in, weight + o * shape.patch(), shape,
                                             offsets.in_zero_point, zw, at / shape.x.out(), at % shape.x.out());
                fits = fits && sum >= INT32_MIN && sum <= INT32_MAX;
                *acc++ = static_cast<int32_t>(static_cast<uint32_t>(static_cast<uint64_t>(sum)));
            }
        }
    }
    return fits;
}

}  // namespace reference

// Elements of In that `conv` needs as workspace.
inline size_t conv_workspace(const ConvShape& shape) { return shape.positions() * shape.patch(); }

// The patches of one group of one image, a row per output position; padding is `zero`.
template <typename In>
inline void patches(const In* in, const ConvShape& shape, In zero, In* out) {
    for (size_t row = 0; row < shape.y.out(); ++row) {
        for (size_t column = 0; column < shape.x.out(); ++column) {
            for (size_t c = 0; c < shape.group_in(); ++c) {
                for (size_t i = 0; i < shape.y.kernel; ++i) {
                    const size_t y = shape.y.under(row, i);
                    const In* line = in + (c * shape.y.in + (y < shape.y.in ? y : 0)) * shape.x.in;
                    for (size_t j = 0; j < shape.x.kernel; ++j) {
                        const size_t x = shape.x.under(column, j);
                        *out++ = y < shape.y.in && x < shape.x.in ? line[x] : zero;
                    }
                }
            }
        }
    }
}

// `in_zero_point` is a code of In. In, Weight: a pair that `gemm` has.
template <typename In, typename Weight>
inline void conv(const In* in, const Weight* weight, const ConvShape& shape, ConvOffsets offsets, In* workspace,
                 int32_t* acc) {
    if (shape.group_out() == 1) {
        reference::conv(in, weight, shape, offsets, acc);
        return;
    }
    const GemmShape product = {shape.positions(), shape.group_out(), shape.patch()};
    for (size_t image = 0; image < shape.batch; ++image) {
        for (size_t g = 0; g < shape.groups; ++g) {
            const size_t o = g * shape.group_out();
            const size_t first = image * shape.in_channels + g * shape.group_in();
            patches(in + first * shape.y.in * shape.x.in, shape, static_cast<In>(offsets.in_zero_point), workspace);
            const GemmOffsets own = {offsets.in_zero_point,
                                     offsets.weight_zero_points ? offsets.weight_zero_points + o : nullptr,
                                     offsets.bias ? offsets.bias + o : nullptr};
            gemm(workspace, weight + o * shape.patch(), product, own,
                 acc + (image * shape.out_channels + o) * shape.positions(), RowPer::N);
        }
    }
}

}  // namespace halfeven
