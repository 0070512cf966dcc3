// Error feedback: the weights of a layer rounded one after the other, each taking up the errors of those before it.
// `numerics/feedback.py` defines it and is the reference that tests compare with.
//
// Rows (outputs) do not meet, so each runs through a block of columns on its own, in registers and the first cache.
#pragma once

#include <cmath>
#include <cstddef>

#include "halfeven/dispatch.hpp"

namespace halfeven {

// Sizes of `left`, `steps`, `codes` (groups, rows, columns) and `factor` (groups, columns, columns); columns
// [start, stop) are rounded to codes low..high, and errors (groups, rows, stop - start) are what they leave.
struct Block {
    std::size_t groups, rows, columns, start, stop;
    double low, high;
};

HALFEVEN_CLONES static void take_up(double* left, const double* factor, double error, std::size_t count) {
    for (std::size_t t = 0; t < count; ++t) left[t] -= error * factor[t];
}

inline void round_columns(double* left, const double* steps, const double* factor, Block b, double* codes,
                          double* errors) {
    const std::size_t width = b.stop - b.start;
    for (std::size_t g = 0; g < b.groups; ++g) {
        const double* upper = factor + g * b.columns * b.columns;
        for (std::size_t o = 0; o < b.rows; ++o) {
            const std::size_t row = (g * b.rows + o) * b.columns;
            double* error_row = errors + (g * b.rows + o) * width;
            for (std::size_t j = b.start; j < b.stop; ++j) {
                double code = std::nearbyint(left[row + j] / steps[row + j]);
                code = code < b.low ? b.low : code;
                code = code > b.high ? b.high : code;
                const double* line = upper + j * b.columns;
                const double error = (left[row + j] - code * steps[row + j]) / line[j];
                codes[row + j] = code;
                error_row[j - b.start] = error;
                take_up(left + row + j + 1, line + j + 1, error, b.stop - j - 1);
            }
        }
    }
}

}  // namespace halfeven
