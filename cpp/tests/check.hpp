// What the tests share: counting failures, sizes around the vector widths, and data that looks for trouble.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "halfeven/dispatch.hpp"

namespace test {

using Floats = std::vector<float>;
using Random = std::mt19937;
constexpr std::size_t SIZES[] = {0, 1, 3, 15, 16, 17, 33, 64, 1000, 4096, 8193};

inline int failures = 0;

inline void check(bool passed, const char* what, const char* data, std::size_t size) {
    if (passed) return;
    ++failures;
    std::printf("FAILED: %s of %zu elements, %s\n", what, size, data);
}

// Bit for bit.
template <typename T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

inline Floats normal(std::size_t size, Random& random) {
    std::normal_distribution<float> draw;
    Floats x(size);
    for (float& one : x) one = draw(random);
    return x;
}

inline Floats relu(std::size_t size, Random& random) {
    Floats x = normal(size, random);
    for (float& one : x) one = one > 0.0f ? one : -0.0f;
    return x;
}

inline Floats any_bits(std::size_t size, Random& random) {  // NaN, infinities, subnormals, both zeros, all magnitudes
    Floats x(size);
    for (float& one : x) one = halfeven::float_of(static_cast<std::int32_t>(random()));
    if (size > 2) x[size / 2] = -std::numeric_limits<float>::infinity();
    return x;
}

inline Floats growing(std::size_t size, Random& random) {  // the bins widen again and again, on either side
    Floats x = normal(size, random);
    for (std::size_t i = 0; i < size; ++i) x[i] = std::ldexp(x[i], static_cast<int>(i / 64) - 140);
    return x;
}

inline Floats ties(std::size_t size, Random& random) {  // halves, and their neighbours, of a grid with scale 2^-4
    Floats x(size);
    for (float& one : x) {
        one = (static_cast<float>(static_cast<int>(random() % 80000) - 40000) + 0.5f) * 0.0625f;
        const unsigned side = random() % 3;
        if (side) one = std::nextafter(one, side == 1 ? 1e30f : -1e30f);
    }
    return x;
}

struct Data {
    const char* name;
    Floats (*make)(std::size_t size, Random& random);
};

constexpr Data DATA[] = {
    {"normal", normal}, {"relu", relu}, {"any bits", any_bits}, {"growing", growing}, {"ties", ties}};

template <typename T>
std::vector<T> integers(std::size_t size, Random& random) {
    std::vector<T> x(size);
    for (T& one : x) one = static_cast<T>(random());
    return x;
}

inline int finish() {
    std::printf("%d failures\n", failures);
    return failures > 0;
}

}  // namespace test
