// Expected squared error of a grid over a histogram; `numerics/native.py` derives it, this file is its fast form.
//
// With r = x / scale, k = rint(r) clipped to the codes, d = r - k, the squared error has the integral from 0 to x
//
//     F(x) = scale^3 / 12 * (k + 4 * d^3)
//
// (a whole step gives scale^3 / 12; within a step, and beyond the last code, t^2 from 0 to d), so data of piecewise constant
// density n_j / w_j between edges e_j has the error  sum_j F(e_j) * (n_(j-1) / w_(j-1) - n_j / w_j), a dot product of F
// and `weights`, whatever the grid. The sum runs in LANES lanes, lane by lane the same in every clone and in NumPy.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "halfeven/dispatch.hpp"

namespace halfeven {

constexpr std::size_t LANES = 8;

struct Codes {
    double scale;
    double low;   // lowest code - zero point
    double high;  // highest code - zero point
};

inline double fold(const double* lane, double scale) {
    const double sum = ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
    return sum * (scale * scale * scale) / 12.0;
}

// `count` is a multiple of LANES.
HALFEVEN_CLONES static double grid_error(const double* edges, const double* weights, std::size_t count, Codes codes) {
    constexpr double ROUNDER = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer, half to even
    const double inverse = 1.0 / codes.scale;
    double lane[LANES] = {};
    for (std::size_t i = 0; i < count; i += LANES) {
        for (std::size_t j = 0; j < LANES; ++j) {
            const double r = edges[i + j] * inverse;
            double k = (r + ROUNDER) - ROUNDER;
            k = k < codes.low ? codes.low : k;
            k = k > codes.high ? codes.high : k;
            const double d = r - k;
            lane[j] += weights[i + j] * (k + 4.0 * (d * d * d));
        }
    }
    return fold(lane, codes.scale);
}

namespace reference {

inline double grid_error(const double* edges, const double* weights, std::size_t count, Codes codes) {
    double lane[LANES] = {};
    for (std::size_t i = 0; i < count; ++i) {
        const double r = edges[i] * (1.0 / codes.scale);
        const double k = std::min(std::max(std::nearbyint(r), codes.low), codes.high);
        const double d = r - k;
        lane[i % LANES] += weights[i] * (k + 4.0 * (d * d * d));
    }
    return fold(lane, codes.scale);
}

}  // namespace reference
}  // namespace halfeven
