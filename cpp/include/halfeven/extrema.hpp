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
#include <cstring>
#include <limits>
#include <vector>

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
constexpr std::size_t LINE = 16;     // floats in a cache line
constexpr std::size_t AHEAD = 2048;  // floats; reaches past the end, where a prefetch does nothing

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

// Keys of `positions` blocks, lane by lane; `low` and `high` have an element for each lane and are widened. Left to
// itself no compiler keeps one register for the lanes of each.
inline void widen_lanes(const float* x, std::size_t positions, std::size_t block, std::int32_t* low,
                        std::int32_t* high) {
    for (std::size_t p = 0; p < positions; ++p)
        for (std::size_t lane = 0; lane < block; ++lane) {
            const std::int32_t key = key_of(bits_of(x[p * block + lane]));
            low[lane] = std::min(low[lane], key);
            high[lane] = std::max(high[lane], key);
        }
}

#if defined(__GNUC__)
template <int BLOCK>
HALFEVEN_INLINE void widen_vectors(const float* x, std::size_t positions, std::int32_t* low, std::int32_t* high) {
    typedef std::int32_t Keys __attribute__((vector_size(BLOCK * 4)));
    Keys least, most, key;
    std::memcpy(&least, low, sizeof least);
    std::memcpy(&most, high, sizeof most);
    for (std::size_t p = 0; p < positions; ++p, x += BLOCK) {
        HALFEVEN_PREFETCH(x + AHEAD);
        std::memcpy(&key, x, sizeof key);
        key ^= (key >> 31) & 0x7fffffff;
        least = key < least ? key : least;
        most = key > most ? key : most;
    }
    std::memcpy(low, &least, sizeof least);
    std::memcpy(high, &most, sizeof most);
}
#endif

HALFEVEN_CLONES static void lane_keys(const float* x, std::size_t positions, std::size_t block, std::int32_t* low,
                                      std::int32_t* high) {
#if defined(__GNUC__)
    if (block == 16) return widen_vectors<16>(x, positions, low, high);
    if (block == 8) return widen_vectors<8>(x, positions, low, high);
#endif
    widen_lanes(x, positions, block, low, high);
}

// A tensor [outer, channels, inner] that lies as [outer, channels / block, inner, block]; all are at least 1.
struct Channels {
    std::size_t outer, count, inner, block;
};

// Lowest and highest element of the channels from `channel` on that make a block, infinities included and -0 as 0; NaN
// where there is one.
inline void channel_extrema(const float* x, Channels in, std::size_t channel, float* low, float* high) {
    std::vector<std::int32_t> least(in.block, KeyRange().low), most(in.block, KeyRange().high);
    for (std::size_t i = 0; i < in.outer; ++i) {
        const float* plane = x + (i * in.count + channel) * in.inner;
        if (in.block > 1) {
            lane_keys(plane, in.inner, in.block, least.data(), most.data());
            continue;
        }
        const KeyRange found = key_range(plane, in.inner);
        least[0] = std::min(least[0], found.low);
        most[0] = std::max(most[0], found.high);
    }
    for (std::size_t lane = 0; lane < in.block; ++lane) {
        const float bottom = float_of(key_of(least[lane])), top = float_of(key_of(most[lane]));
        const bool both = !std::isnan(bottom) && !std::isnan(top);
        low[lane] = both ? bottom + 0.0f : std::numeric_limits<float>::quiet_NaN();
        high[lane] = both ? top + 0.0f : std::numeric_limits<float>::quiet_NaN();
    }
}

// Sums of the squares, rounded to float, of each `stride`-th element of these channels, the first included, added in
// the order in which [outer, inner] are written.
inline void channel_squares(const float* x, Channels in, std::size_t channel, std::size_t stride, double* sums) {
    std::fill(sums, sums + in.block, 0.0);
    std::size_t at = 0;
    for (std::size_t i = 0; i < in.outer; ++i) {
        const float* plane = x + (i * in.count + channel) * in.inner;
        for (; at < in.inner; at += stride)
            for (std::size_t lane = 0; lane < in.block; ++lane) {
                const float v = plane[at * in.block + lane];
                sums[lane] += static_cast<double>(v * v);
            }
        at -= in.inner;
    }
}

}  // namespace halfeven
