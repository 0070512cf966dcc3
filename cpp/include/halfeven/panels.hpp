// Convolution and matrix product of codes, fast: products of 16-bit offsets, summed in pairs into 32 bits, and the sums
// turned into codes while they are near.
//
//     acc[o, p] = bias[o] + sum over k of (w[o, k] - zw[o]) * (x[k, p] - zx)
//
// Offsets of 8-bit codes lie within -255..255, so a pair of products lies within 2^18: one instruction (x86 VPMADDWD, or
// VPDPWSSD where there is VNNI) multiplies and adds a pair exactly, whatever the signs of the types. Nothing saturates,
// on any processor; all sums are modulo 2^32, as in gemm.hpp.
//
//     weights  packed once:     blocks of ROWS rows, within a block for each pair of k:  ROWS x 2 offsets
//     inputs   packed by panel: COLUMNS output positions, for each pair of k:            COLUMNS x 2 offsets
//     tile     ROWS x COLUMNS sums in registers, over all k
//
// k runs over (channel, row, column) of the patch; an odd K gets a zero.
// Depthwise convolutions have no panels: see depthwise.hpp.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <vector>

#include "halfeven/conv.hpp"
#include "halfeven/crew.hpp"
#include "halfeven/dispatch.hpp"
#include "halfeven/requantize.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#define HALFEVEN_PAIRS_X86 1
#include <immintrin.h>
#endif

namespace halfeven {

constexpr size_t MOST_ROWS = 8, MOST_COLUMNS = 32;

// out[ROWS][COLUMNS] = sums over `pairs` pairs of a packed block and a packed panel.
using TileKernel = void (*)(const int16_t* a, const int16_t* b, size_t pairs, int32_t* out);

struct Tile {
    size_t rows;
    size_t columns;
    TileKernel sums;
    TileKernel narrow;  // the first column alone: matrix times vector; the others are left as they are; or null
};

namespace reference {

template <size_t ROWS, size_t COLUMNS>
inline void tile(const int16_t* a, const int16_t* b, size_t pairs, int32_t* out) {
    uint32_t sum[ROWS][COLUMNS] = {};
    for (size_t k = 0; k < pairs; ++k, a += 2 * ROWS, b += 2 * COLUMNS)
        for (size_t i = 0; i < ROWS; ++i)
            for (size_t j = 0; j < COLUMNS; ++j)
                sum[i][j] += static_cast<uint32_t>(a[2 * i] * b[2 * j] + a[2 * i + 1] * b[2 * j + 1]);
    for (size_t i = 0; i < ROWS; ++i)
        for (size_t j = 0; j < COLUMNS; ++j) out[i * COLUMNS + j] = static_cast<int32_t>(sum[i][j]);
}

}  // namespace reference

#if defined(HALFEVEN_PAIRS_X86)

inline int32_t pair_at(const int16_t* a) {
    int32_t both;
    memcpy(&both, a, sizeof both);
    return both;
}

__attribute__((target("avx2"))) inline void tile_avx2(const int16_t* a, const int16_t* b, size_t pairs, int32_t* out) {
    __m256i sum[6][2];
    for (auto& row : sum) row[0] = row[1] = _mm256_setzero_si256();
    for (size_t k = 0; k < pairs; ++k, a += 12, b += 32) {
        const __m256i b0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b));
        const __m256i b1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + 16));
        for (size_t i = 0; i < 6; ++i) {
            const __m256i w = _mm256_set1_epi32(pair_at(a + 2 * i));
            sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(w, b0));
            sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(w, b1));
        }
    }
    for (size_t i = 0; i < 6; ++i)
        for (size_t j = 0; j < 2; ++j)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16 * i + 8 * j), sum[i][j]);
}

// One column of a block of 8 rows; the panel has 32 columns.
__attribute__((target("avx2"))) inline void column_avx2(const int16_t* a, const int16_t* b, size_t pairs, int32_t* out) {
    __m256i even = _mm256_setzero_si256(), odd = even;
    size_t k = 0;
    for (; k + 2 <= pairs; k += 2, a += 32, b += 128) {
        const __m256i a0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a));
        const __m256i a1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + 16));
        even = _mm256_add_epi32(even, _mm256_madd_epi16(a0, _mm256_set1_epi32(pair_at(b))));
        odd = _mm256_add_epi32(odd, _mm256_madd_epi16(a1, _mm256_set1_epi32(pair_at(b + 64))));
    }
    if (k < pairs) {
        const __m256i a0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a));
        even = _mm256_add_epi32(even, _mm256_madd_epi16(a0, _mm256_set1_epi32(pair_at(b))));
    }
    int32_t sums[8];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), _mm256_add_epi32(even, odd));
    for (size_t i = 0; i < 8; ++i) out[32 * i] = sums[i];
}

__attribute__((target("avx512bw"))) inline void tile_avx512(const int16_t* a, const int16_t* b, size_t pairs, int32_t* out) {
    __m512i sum[8][2];
    for (auto& row : sum) row[0] = row[1] = _mm512_setzero_si512();
    for (size_t k = 0; k < pairs; ++k, a += 16, b += 64) {
        const __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + 32);
        for (size_t i = 0; i < 8; ++i) {
            const __m512i w = _mm512_set1_epi32(pair_at(a + 2 * i));
            sum[i][0] = _mm512_add_epi32(sum[i][0], _mm512_madd_epi16(w, b0));
            sum[i][1] = _mm512_add_epi32(sum[i][1], _mm512_madd_epi16(w, b1));
        }
    }
    for (size_t i = 0; i < 8; ++i)
        for (size_t j = 0; j < 2; ++j) _mm512_storeu_si512(out + 32 * i + 16 * j, sum[i][j]);
}

__attribute__((target("avx512bw,avx512vnni"))) inline void tile_vnni(const int16_t* a, const int16_t* b, size_t pairs,
                                                                     int32_t* out) {
    __m512i sum[8][2];
    for (auto& row : sum) row[0] = row[1] = _mm512_setzero_si512();
    for (size_t k = 0; k < pairs; ++k, a += 16, b += 64) {
        const __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + 32);
        for (size_t i = 0; i < 8; ++i) {
            const __m512i w = _mm512_set1_epi32(pair_at(a + 2 * i));
            sum[i][0] = _mm512_dpwssd_epi32(sum[i][0], w, b0);
            sum[i][1] = _mm512_dpwssd_epi32(sum[i][1], w, b1);
        }
    }
    for (size_t i = 0; i < 8; ++i)
        for (size_t j = 0; j < 2; ++j) _mm512_storeu_si512(out + 32 * i + 16 * j, sum[i][j]);
}

#endif

// What this processor has; `most` limits it: 0 portable, 1 AVX2, 2 AVX-512, 3 VNNI. All give the same sums.
inline Tile tile_for(int most = 3) {
#if defined(HALFEVEN_PAIRS_X86)
    if (most >= 3 && __builtin_cpu_supports("avx512vnni")) return {8, 32, tile_vnni, column_avx2};
    if (most >= 2 && __builtin_cpu_supports("avx512bw")) return {8, 32, tile_avx512, column_avx2};
    if (most >= 1 && __builtin_cpu_supports("avx2")) return {6, 16, tile_avx2, nullptr};
#endif
    (void)most;
    return {4, 16, reference::tile<4, 16>, nullptr};
}

// A layer's weights as offsets, packed for a tile, group by group; depthwise ones lie as they are.
struct PackedWeights {
    Tile tile;
    ConvShape shape;  // of the weights: out_channels, groups, kernels; spatial sizes are those of a call
    bool depthwise;
    bool portable;  // without the processor's own instructions
    size_t depth;  // K
    std::vector<int16_t> offsets;

    size_t pairs() const { return (depth + 1) / 2; }
    size_t blocks() const { return (shape.group_out() + tile.rows - 1) / tile.rows; }
    const int16_t* block(size_t group, size_t index) const {
        return offsets.data() + (group * blocks() + index) * pairs() * 2 * tile.rows;
    }
};

// `zeros`: one zero point for each output channel.
template <typename Weight>
inline PackedWeights pack_weights(const Weight* weight, const int32_t* zeros, ConvShape shape, int most = 3) {
    PackedWeights packed = {tile_for(most), shape, shape.groups > 1 && shape.group_in() == 1 && shape.group_out() == 1,
                            most < 1, shape.patch(), {}};
    const size_t depth = packed.depth, rows = packed.tile.rows;
    const auto offset = [&](size_t o, size_t k) { return static_cast<int16_t>(weight[o * depth + k] - zeros[o]); };
    if (packed.depthwise) {
        packed.offsets.resize(shape.out_channels * depth);
        for (size_t o = 0; o < shape.out_channels; ++o)
            for (size_t k = 0; k < depth; ++k) packed.offsets[o * depth + k] = offset(o, k);
        return packed;
    }
    packed.offsets.assign(shape.groups * packed.blocks() * packed.pairs() * 2 * rows, 0);
    for (size_t o = 0; o < shape.out_channels; ++o) {
        const size_t group = o / shape.group_out(), row = o % shape.group_out();
        int16_t* block = packed.offsets.data() + (packed.block(group, row / rows) - packed.offsets.data());
        for (size_t k = 0; k < depth; ++k) block[(k / 2 * rows + row % rows) * 2 + k % 2] = offset(o, k);
    }
    return packed;
}

// One row of a panel: offsets under tap (c, i, j) of positions first .. first + count.
template <typename In>
HALFEVEN_INLINE void tap_row(const In* plane, const ConvShape& shape, size_t i, size_t j, size_t first, size_t count,
                             int32_t zero, int16_t* __restrict out) {
    const size_t width = shape.x.out();
    for (size_t at = 0; at < count;) {
        const size_t row = (first + at) / width, column = (first + at) % width;
        const size_t run = count - at < width - column ? count - at : width - column;
        const size_t y = shape.y.under(row, i);
        if (y >= shape.y.in) {
            for (size_t n = 0; n < run; ++n) out[at + n] = 0;
        } else {
            const In* line = plane + y * shape.x.in;
            size_t n = 0;
            for (; n < run && shape.x.under(column + n, j) >= shape.x.in; ++n) out[at + n] = 0;
            const size_t begin = n, from = shape.x.under(column + n, j), stride = shape.x.stride;
            size_t inside = from < shape.x.in ? (shape.x.in - from + stride - 1) / stride : 0;
            if (inside > run - n) inside = run - n;
            if (stride == 1) {
                for (size_t t = 0; t < inside; ++t) out[at + begin + t] = static_cast<int16_t>(line[from + t] - zero);
            } else {
                for (size_t t = 0; t < inside; ++t)
                    out[at + begin + t] = static_cast<int16_t>(line[from + t * stride] - zero);
            }
            for (n += inside; n < run; ++n) out[at + n] = 0;
        }
        at += run;
    }
}

template <typename In>
HALFEVEN_INLINE void pack_panel(const In* in, const ConvShape& shape, size_t first, size_t count, size_t columns,
                                int32_t zero, int16_t* __restrict panel) {
    int16_t even[MOST_COLUMNS] = {}, odd[MOST_COLUMNS] = {};
    const size_t taps = shape.y.kernel * shape.x.kernel, depth = shape.patch(), plane = shape.y.in * shape.x.in;
    const bool plain = taps == 1 && shape.x.stride == 1 && shape.y.stride == 1 && plane == shape.positions();
    const auto fill = [&](size_t k, int16_t* __restrict row) {
        if (plain) {
            const In* line = in + k * plane + first;
            for (size_t n = 0; n < count; ++n) row[n] = static_cast<int16_t>(line[n] - zero);
        } else {
            const size_t tap = k % taps;
            tap_row(in + k / taps * plane, shape, tap / shape.x.kernel, tap % shape.x.kernel, first, count, zero, row);
        }
    };
    for (size_t k = 0; k < depth; k += 2, panel += 2 * columns) {
        fill(k, even);
        if (k + 1 < depth) fill(k + 1, odd);
        else memset(odd, 0, sizeof odd);
        for (size_t n = 0; n < columns; ++n) {
            panel[2 * n] = even[n];
            panel[2 * n + 1] = odd[n];
        }
    }
}

HALFEVEN_CLONES static void pack_inputs(const uint8_t* in, const ConvShape& shape, size_t first, size_t count,
                                        size_t columns, int32_t zero, int16_t* panel) {
    pack_panel(in, shape, first, count, columns, zero, panel);
}

HALFEVEN_CLONES static void pack_inputs(const int8_t* in, const ConvShape& shape, size_t first, size_t count,
                                        size_t columns, int32_t zero, int16_t* panel) {
    pack_panel(in, shape, first, count, columns, zero, panel);
}

}  // namespace halfeven
