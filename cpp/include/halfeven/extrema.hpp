// Lowest and highest finite element, and how many are NaN or infinite.
//
// Floats are compared as integers: with the bits b of a float, key = b ^ ((b >> 31) & 0x7fffffff) orders all floats as
// `<` does, -0 just below +0, and puts NaN outside of the infinities. Integer minimum and maximum do not depend on the
// order of the elements, so every compiler may vectorize them without fast-math, and NaN shows by itself: only when a
// key reaches that of an infinity is the chunk read again, slowly.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "halfeven/dispatch.hpp"

namespace halfeven {

struct Extrema {
    float low = std::numeric_limits<float>::infinity();
    float high = -std::numeric_limits<float>::infinity();
    std::int64_t nans = 0;
    std::int64_t infs = 0;

    void merge(const Extrema& other) {
        low = std::min(low, other.low);
        high = std::max(high, other.high);
        nans += other.nans;
        infs += other.infs;
    }
};

// Elements that one pass over the first cache holds together with its counters.
constexpr std::size_t CHUNK = 4096;

struct KeyRange {
    std::int32_t low = std::numeric_limits<std::int32_t>::max();
    std::int32_t high = std::numeric_limits<std::int32_t>::min();
};

inline std::int32_t key_of(std::int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }
constexpr std::int32_t KEY_OF_INFINITY = 0x7f800000;
constexpr std::int32_t KEY_OF_MINUS_INFINITY = -0x7f800001;

inline bool all_finite(KeyRange keys) { return keys.low > KEY_OF_MINUS_INFINITY && keys.high < KEY_OF_INFINITY; }

inline void widen(KeyRange& keys, float x) {
    const std::int32_t key = key_of(bits_of(x));
    keys.low = key < keys.low ? key : keys.low;
    keys.high = key > keys.high ? key : keys.high;
}

// Tensors are read once, from beyond the caches of a core: asking for lines early saves a sixth of the time.
#if defined(__GNUC__)
#define HALFEVEN_PREFETCH(address) __builtin_prefetch(address)
#else
#define HALFEVEN_PREFETCH(address)
#endif
constexpr std::size_t LINE = 16;    // floats in a cache line
constexpr std::size_t AHEAD = 512;  // floats; reaches past the end, where a prefetch does nothing

HALFEVEN_CLONES static KeyRange key_range(const float* x, std::size_t count) {
    KeyRange keys;
    std::size_t i = 0;
    for (; i + 4 * LINE <= count; i += 4 * LINE) {
        for (std::size_t line = 0; line < 4; ++line) HALFEVEN_PREFETCH(x + i + AHEAD + line * LINE);
        for (std::size_t j = 0; j < 4 * LINE; ++j) widen(keys, x[i + j]);
    }
    for (; i < count; ++i) widen(keys, x[i]);
    return keys;
}

namespace reference {

inline Extrema extrema(const float* x, std::size_t count) {
    Extrema found;
    for (std::size_t i = 0; i < count; ++i) {
        if (std::isnan(x[i])) {
            ++found.nans;
        } else if (std::isinf(x[i])) {
            ++found.infs;
        } else {
            found.low = std::min(found.low, x[i] + 0.0f);  // + 0 makes -0 a 0, so that merging has one result
            found.high = std::max(found.high, x[i] + 0.0f);
        }
    }
    return found;
}

}  // namespace reference

// Extrema of a chunk from its keys; `count` > 0.
inline Extrema chunk_extrema(const float* x, std::size_t count, KeyRange keys) {
    if (!all_finite(keys)) return reference::extrema(x, count);
    Extrema found;
    found.low = float_of(key_of(keys.low)) + 0.0f;  // key_of is its own inverse
    found.high = float_of(key_of(keys.high)) + 0.0f;
    return found;
}

inline Extrema extrema(const float* x, std::size_t count) {
    Extrema found;
    for (std::size_t i = 0; i < count; i += CHUNK) {
        const std::size_t size = std::min(CHUNK, count - i);
        found.merge(chunk_extrema(x + i, size, key_range(x + i, size)));
    }
    return found;
}

// Lowest and highest element of each channel of a tensor [outer, channels, inner], infinities included and -0 as 0; NaN
// where there is one. `outer` and `inner` are at least 1.
inline void channel_extrema(const float* x, std::size_t outer, std::size_t channels, std::size_t inner, float* low,
                            float* high) {
    for (std::size_t channel = 0; channel < channels; ++channel) {
        KeyRange keys;
        for (std::size_t i = 0; i < outer; ++i) {
            const KeyRange found = key_range(x + (i * channels + channel) * inner, inner);
            keys.low = std::min(keys.low, found.low);
            keys.high = std::max(keys.high, found.high);
        }
        const float least = float_of(key_of(keys.low)), most = float_of(key_of(keys.high));
        const bool both = !std::isnan(least) && !std::isnan(most);
        low[channel] = both ? least + 0.0f : std::numeric_limits<float>::quiet_NaN();
        high[channel] = both ? most + 0.0f : std::numeric_limits<float>::quiet_NaN();
    }
}

}  // namespace halfeven
