// Integer matrix product, with zero points and bias, in 32-bit accumulators.
//
//     acc[m, n] = bias[n] + sum over k of (a[m, k] - za) * (b[n, k] - zb[n])
//               = bias[n] + sum a b  -  za * sum_k b[n, k]  -  zb[n] * sum_k a[m, k]  +  K * za * zb[n]
//
// `a` is M x K, row-major; `b` is N x K, a row per output channel, as ONNX stores Conv weights and Gemm's with transB.
// The second line is what `gemm` computes: the zero points leave the inner loop. All sums are modulo 2^32, so any order
// has one result, and it is the true one wherever that fits in 32 bits; the reference sums in 64 and says if it did not.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "halfeven/dispatch.hpp"

namespace halfeven {

struct GemmShape {
    size_t m;
    size_t n;
    size_t k;
};

// Where acc[m, n] lies: a row per m, or a row per n, which is what a convolution wants (channels first).
enum class RowPer : uint8_t { M, N };

inline size_t place_of(GemmShape shape, RowPer row, size_t m, size_t n) {
    return row == RowPer::M ? m * shape.n + n : n * shape.m + m;
}

// What is subtracted and added; a null array is all zeros.
struct GemmOffsets {
    int32_t a_zero_point;
    const int32_t* b_zero_points;  // one per row of b
    const int32_t* bias;           // one per row of b
};

namespace reference {

// False if some sum does not fit in 32 bits; that accumulator is then the sum modulo 2^32.
template <typename A, typename B>
inline bool gemm(const A* a, const B* b, GemmShape shape, GemmOffsets offsets, int32_t* acc, RowPer row = RowPer::M) {
    bool fits = true;
    for (size_t m = 0; m < shape.m; ++m) {
        for (size_t n = 0; n < shape.n; ++n) {
            const int64_t zb = offsets.b_zero_points ? offsets.b_zero_points[n] : 0;
            int64_t sum = offsets.bias ? offsets.bias[n] : 0;
            for (size_t k = 0; k < shape.k; ++k)
                sum += (a[m * shape.k + k] - static_cast<int64_t>(offsets.a_zero_point)) * (b[n * shape.k + k] - zb);
            fits = fits && sum >= INT32_MIN && sum <= INT32_MAX;
            acc[place_of(shape, row, m, n)] =
                static_cast<int32_t>(static_cast<uint32_t>(static_cast<uint64_t>(sum)));
        }
    }
    return fits;
}

}  // namespace reference

// The block of the result that is computed at once: each element of a and b that is read serves 4.
constexpr size_t BLOCK_M = 4;
constexpr size_t BLOCK_N = 4;

template <typename T>
HALFEVEN_INLINE uint32_t sum_of(const T* x, size_t count) {
    uint32_t sum = 0;
    for (size_t k = 0; k < count; ++k) sum += static_cast<uint32_t>(static_cast<int32_t>(x[k]));
    return sum;
}

// Plain products of `rows` x `columns` rows of length `count`, into sums[row][column].
template <size_t ROWS, size_t COLUMNS, typename A, typename B>
HALFEVEN_INLINE void dot_block(const A* __restrict a, const B* __restrict b, size_t count,
                               uint32_t (&sums)[BLOCK_M][BLOCK_N]) {
    uint32_t sum[ROWS][COLUMNS] = {};
    for (size_t k = 0; k < count; ++k)
        for (size_t i = 0; i < ROWS; ++i)
            for (size_t j = 0; j < COLUMNS; ++j)
                sum[i][j] += static_cast<uint32_t>(static_cast<int32_t>(a[i * count + k]) * b[j * count + k]);
    for (size_t i = 0; i < ROWS; ++i)
        for (size_t j = 0; j < COLUMNS; ++j) sums[i][j] = sum[i][j];
}

template <typename A, typename B>
HALFEVEN_INLINE void gemm_blocked(const A* a, const B* b, GemmShape shape, GemmOffsets offsets, int32_t* acc, RowPer row) {
    const uint32_t za = static_cast<uint32_t>(offsets.a_zero_point), depth = static_cast<uint32_t>(shape.k);
    for (size_t m = 0; m < shape.m; m += BLOCK_M) {
        const size_t rows = shape.m - m < BLOCK_M ? shape.m - m : BLOCK_M;
        uint32_t a_sums[BLOCK_M];
        for (size_t i = 0; i < rows; ++i) a_sums[i] = sum_of(a + (m + i) * shape.k, shape.k);
        for (size_t n = 0; n < shape.n; n += BLOCK_N) {
            const size_t columns = shape.n - n < BLOCK_N ? shape.n - n : BLOCK_N;
            uint32_t sums[BLOCK_M][BLOCK_N];
            if (rows == BLOCK_M && columns == BLOCK_N) {
                dot_block<BLOCK_M, BLOCK_N>(a + m * shape.k, b + n * shape.k, shape.k, sums);
            } else {
                for (size_t i = 0; i < rows; ++i)
                    for (size_t j = 0; j < columns; ++j) {
                        uint32_t one[BLOCK_M][BLOCK_N];
                        dot_block<1, 1>(a + (m + i) * shape.k, b + (n + j) * shape.k, shape.k, one);
                        sums[i][j] = one[0][0];
                    }
            }
            for (size_t j = 0; j < columns; ++j) {
                const uint32_t zb = offsets.b_zero_points ? static_cast<uint32_t>(offsets.b_zero_points[n + j]) : 0;
                const uint32_t bias = offsets.bias ? static_cast<uint32_t>(offsets.bias[n + j]) : 0;
                const uint32_t b_sum = za ? sum_of(b + (n + j) * shape.k, shape.k) : 0;
                for (size_t i = 0; i < rows; ++i)
                    acc[place_of(shape, row, m + i, n + j)] =
                        static_cast<int32_t>(sums[i][j] + bias - za * b_sum - zb * a_sums[i] + depth * za * zb);
            }
        }
    }
}

HALFEVEN_CLONES static void gemm(const int8_t* a, const int8_t* b, GemmShape shape, GemmOffsets offsets, int32_t* acc,
                                 RowPer row = RowPer::M) {
    gemm_blocked(a, b, shape, offsets, acc, row);
}

HALFEVEN_CLONES static void gemm(const uint8_t* a, const int8_t* b, GemmShape shape, GemmOffsets offsets, int32_t* acc,
                                 RowPer row = RowPer::M) {
    gemm_blocked(a, b, shape, offsets, acc, row);
}

HALFEVEN_CLONES static void gemm(const uint8_t* a, const uint8_t* b, GemmShape shape, GemmOffsets offsets, int32_t* acc,
                                 RowPer row = RowPer::M) {
    gemm_blocked(a, b, shape, offsets, acc, row);
}

HALFEVEN_CLONES static void gemm(const int16_t* a, const int8_t* b, GemmShape shape, GemmOffsets offsets, int32_t* acc,
                                 RowPer row = RowPer::M) {
    gemm_blocked(a, b, shape, offsets, acc, row);
}

}  // namespace halfeven
