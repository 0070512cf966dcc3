// Depthwise convolution of 8-bit codes, and what becomes of a layer's sums.
//
// A plane is copied with its padding as 16-bit offsets, the columns of each row sorted by their place in a stride, so that
// what a tap reads for neighbouring outputs lies side by side. Two taps at a time are multiplied by their weights and
// added in 32 bits (x86 VPMADDWD), which is exact; an odd number of taps gets one of weight 0.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "halfeven/panels.hpp"

namespace halfeven {

// What becomes of the sums. `by`: one element for each output channel.
struct Finish {
    const Rescale* by;
    int32_t zero_point;
    CodeRange range;
};

struct LayerOffsets {
    int32_t in_zero_point;
    const int32_t* bias;  // one per output channel, or null
};

template <typename Code>
HALFEVEN_INLINE void finish_row(const int32_t* sums, size_t count, size_t o, const Finish& finish, Code* out) {
    requantize_run(sums, count, finish.by[o], finish.zero_point, finish.range, out);
}

// A tile's rows: sums of output channels `o` and on, `columns` apart, for `count` positions; bias may be null.
template <typename Code>
HALFEVEN_INLINE void finish_tile(int32_t* sums, size_t rows, size_t columns, size_t count, size_t o, const int32_t* bias,
                                 const Finish& f, size_t positions, Code* out) {
    for (size_t i = 0; i < rows; ++i, sums += columns, out += positions) {
        const uint32_t added = bias ? static_cast<uint32_t>(bias[o + i]) : 0;
        for (size_t n = 0; n < count; ++n) sums[n] = static_cast<int32_t>(static_cast<uint32_t>(sums[n]) + added);
        if constexpr (sizeof(Code) == 4) std::copy(sums, sums + count, out);
        else finish_row(sums, count, o + i, f, out);
    }
}

#define HALFEVEN_FINISH(CODE)                                                                                          \
    HALFEVEN_CLONES static void finish(int32_t* sums, size_t rows, size_t columns, size_t count, size_t o,            \
                                       const int32_t* bias, const Finish& f, size_t positions, CODE* out) {           \
        finish_tile(sums, rows, columns, count, o, bias, f, positions, out);                                           \
    }
HALFEVEN_FINISH(uint8_t)
HALFEVEN_FINISH(int8_t)
HALFEVEN_FINISH(int32_t)
#undef HALFEVEN_FINISH

// Offsets of a plane with its padding: `rows` x (stride x phase), column x of a row at [x % stride][x / stride].
template <typename In>
HALFEVEN_INLINE void pad_plane(const In* in, const ConvShape& shape, size_t phase, int32_t zero, int16_t* __restrict out) {
    const size_t stride = shape.x.stride, line = stride * phase, before = shape.x.pad_begin;
    const size_t high = shape.y.in + shape.y.pad_begin + shape.y.pad_end;
    std::fill(out, out + high * line, int16_t{0});
    for (size_t y = 0; y < shape.y.in; ++y) {
        int16_t* row = out + (y + shape.y.pad_begin) * line;
        const In* from = in + y * shape.x.in;
        for (size_t p = 0; p < stride; ++p) {
            const size_t first = before > p ? (before - p + stride - 1) / stride : 0;  // columns before are padding
            const size_t start = p + first * stride - before;
            const size_t count = start < shape.x.in ? (shape.x.in - start + stride - 1) / stride : 0;
            int16_t* to = row + p * phase + first;
            if (stride == 1) {
                for (size_t x = 0; x < count; ++x) to[x] = static_cast<int16_t>(from[start + x] - zero);
            } else if (stride == 2) {
                for (size_t x = 0; x < count; ++x) to[x] = static_cast<int16_t>(from[start + 2 * x] - zero);
            } else {
                for (size_t x = 0; x < count; ++x) to[x] = static_cast<int16_t>(from[start + x * stride] - zero);
            }
        }
    }
}

// sums[x] = bias + the products of `taps` (an even number) rows and their weights, for x = 0 .. count rounded up to 16.
using TapKernel = void (*)(const int16_t* const* rows, const int16_t* weights, size_t taps, size_t count, int32_t bias,
                           int32_t* sums);

namespace reference {

inline void tap_sums(const int16_t* const* rows, const int16_t* weights, size_t taps, size_t count, int32_t bias,
                     int32_t* __restrict sums) {
    for (size_t x = 0; x < count; ++x) sums[x] = bias;
    for (size_t t = 0; t < taps; ++t) {
        const int16_t* row = rows[t];
        const int32_t w = weights[t];
        for (size_t x = 0; x < count; ++x)
            sums[x] = static_cast<int32_t>(static_cast<uint32_t>(sums[x]) + static_cast<uint32_t>(row[x] * w));
    }
}

}  // namespace reference

#if defined(HALFEVEN_PAIRS_X86)
__attribute__((target("avx2"))) inline void tap_sums_avx2(const int16_t* const* rows, const int16_t* weights, size_t taps,
                                                         size_t count, int32_t bias, int32_t* sums) {
    for (size_t x = 0; x < count; x += 16) {
        __m256i low = _mm256_set1_epi32(bias), high = low;  // outputs 0-3 and 8-11, 4-7 and 12-15
        for (size_t t = 0; t < taps; t += 2) {
            const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[t] + x));
            const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[t + 1] + x));
            const __m256i w = _mm256_set1_epi32(pair_at(weights + t));
            low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), w));
            high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), w));
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + x), _mm256_permute2x128_si256(low, high, 0x20));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + x + 8), _mm256_permute2x128_si256(low, high, 0x31));
    }
}
#endif

inline TapKernel tap_kernel(bool portable) {
#if defined(HALFEVEN_PAIRS_X86)
    if (!portable && __builtin_cpu_supports("avx2")) return tap_sums_avx2;
#endif
    (void)portable;
    return reference::tap_sums;
}

constexpr size_t SLACK = 32;  // elements that a kernel may read or write beyond a row

// Where each tap reads, from the first element of an output row's window.
inline void tap_places(const ConvShape& shape, size_t line, size_t phase, size_t* out) {
    for (size_t i = 0; i < shape.y.kernel; ++i) {
        for (size_t j = 0; j < shape.x.kernel; ++j) {
            const size_t at = j * shape.x.dilation, stride = shape.x.stride;
            *out++ = i * shape.y.dilation * line + (stride == 1 ? at : at % stride * phase + at / stride);
        }
    }
}

// Where both strides are 1, all output rows are one long row, of which the columns beyond the width are left out after.
template <typename In, typename Code>
HALFEVEN_INLINE void depthwise_plane(const In* in, const PackedWeights& w, const ConvShape& shape, size_t o, int32_t zero,
                                     int32_t bias, const Finish& f, Code* out) {
    const size_t wide = shape.x.in + shape.x.pad_begin + shape.x.pad_end, stride = shape.x.stride;
    const size_t phase = (wide + stride - 1) / stride, line = phase * stride, width = shape.x.out();
    const size_t high = shape.y.in + shape.y.pad_begin + shape.y.pad_end, taps = (w.depth + 1) / 2 * 2;
    const bool one = stride == 1 && shape.y.stride == 1;
    const size_t lines = shape.y.out(), pitch = one ? line : width;
    static thread_local std::vector<int16_t> plane, weights;
    static thread_local std::vector<int32_t> sums;
    static thread_local std::vector<const int16_t*> rows;
    static thread_local std::vector<size_t> places;
    plane.resize(high * line + line + SLACK);
    sums.resize(lines * pitch + SLACK);
    rows.resize(taps);
    places.resize(taps);
    weights.assign(taps, 0);
    std::copy(w.offsets.data() + o * w.depth, w.offsets.data() + (o + 1) * w.depth, weights.begin());
    pad_plane(in, shape, phase, zero, plane.data());
    tap_places(shape, line, phase, places.data());
    if (taps > w.depth) places[w.depth] = places[0];
    const TapKernel kernel = tap_kernel(w.portable);
    for (size_t row = 0; row < (one ? 1 : lines); ++row) {
        const int16_t* start = plane.data() + row * shape.y.stride * line;
        for (size_t t = 0; t < taps; ++t) rows[t] = start + places[t];
        kernel(rows.data(), weights.data(), taps, one ? lines * line - (line - width) : width, bias,
               sums.data() + row * width);
    }
    if (one && pitch > width)
        for (size_t row = 1; row < lines; ++row)
            memmove(sums.data() + row * width, sums.data() + row * pitch, width * sizeof(int32_t));
    if constexpr (sizeof(Code) == 4) std::copy(sums.data(), sums.data() + shape.positions(), out);
    else finish_row(sums.data(), shape.positions(), o, f, out);
}

// One clone of the loops for each pair of types that a depthwise layer has.
#define HALFEVEN_DEPTHWISE(IN, CODE)                                                                                  \
    HALFEVEN_CLONES static void depthwise(const IN* in, const PackedWeights& w, const ConvShape& shape, size_t o,     \
                                          int32_t zero, int32_t bias, const Finish& f, CODE* out) {                   \
        depthwise_plane(in, w, shape, o, zero, bias, f, out);                                                         \
    }
HALFEVEN_DEPTHWISE(uint8_t, uint8_t)
HALFEVEN_DEPTHWISE(uint8_t, int8_t)
HALFEVEN_DEPTHWISE(uint8_t, int32_t)
HALFEVEN_DEPTHWISE(int8_t, uint8_t)
HALFEVEN_DEPTHWISE(int8_t, int8_t)
HALFEVEN_DEPTHWISE(int8_t, int32_t)
#undef HALFEVEN_DEPTHWISE

}  // namespace halfeven
