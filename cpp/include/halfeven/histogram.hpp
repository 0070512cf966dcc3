// Histogram over bins whose width is a power of two; `numerics/bins.py` defines it, this file is its fast form.
//
//     bin of x > 0    m           m = trunc(|x| * 2^-exponent)        x = 0 has a count of its own
//     bin of x < 0   -1 - m       twice as wide a bin: m >> 1
//
// 2^-exponent times x is exact (or so small that m = 0 anyhow), hence m is the true bin. The exponent is the least for
// which the bins between 0, `low` and `high` number at most BINS: a function of the extrema alone, so a histogram does
// not depend on how its data was cut. One pass over memory: a chunk's extrema are taken while it enters the cache,
// the bins widened if it leaves them, and then it is counted.
//
// Counting is bound by the latency of one increment after the other on the same counter (half of a ReLU's outputs are
// equal!), so four banks of counters take turns.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "halfeven/extrema.hpp"

namespace halfeven {

constexpr int BINS = 4096;
constexpr int MIN_EXPONENT = -126;  // 2^126 is a float32; no scale is smaller
constexpr int BANKS = 4;
constexpr std::size_t TOGETHER = 4;  // chunks whose lanes are sampled at once: for one the loops are too short to be fast
constexpr std::size_t PARALLEL_GRAIN = std::size_t{1} << 18;  // elements a thread should have at least
constexpr std::size_t SEGMENT = std::size_t{1} << 30;         // elements that 32-bit counters take

struct Histogram {
    Extrema extrema;
    int exponent = MIN_EXPONENT;
    int negative = 0;                  // bins below zero; `counts` holds them first, most negative foremost
    std::vector<std::int64_t> counts;  // of non-zero finite elements
    std::int64_t zeros = 0;
};

// Bins between 0 and `edge`, either side.
inline int bins_to(float edge, int exponent) {
    return edge == 0.0f ? 0 : 1 + static_cast<int>(std::ldexp(std::fabs(static_cast<double>(edge)), -exponent));
}

inline int negative_bins(const Extrema& e, int exponent) { return e.low < 0.0f ? bins_to(e.low, exponent) : 0; }
inline int positive_bins(const Extrema& e, int exponent) { return e.high > 0.0f ? bins_to(e.high, exponent) : 0; }

inline int exponent_for(const Extrema& e) {
    const float most = std::max(-e.low, e.high);
    if (!(most > 0.0f)) return MIN_EXPONENT;  // no element, or zeros only
    int exponent;
    std::frexp(most, &exponent);  // |x| < 2^exponent: 12 less makes 2049 to 4096 bins on that side
    exponent = std::max(exponent - 12, MIN_EXPONENT);
    return exponent + (negative_bins(e, exponent) + positive_bins(e, exponent) > BINS ? 1 : 0);
}

// Places of the elements in a bank, whose middle is bin 0; returns how many are zero (they are put into bin 0).
HALFEVEN_CLONES static std::int32_t places(const float* x, std::size_t count, float inverse, std::uint16_t* out) {
    std::int32_t zeros = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const float v = x[i] + 0.0f;  // -0 becomes 0
        zeros += v == 0.0f;
        out[i] = static_cast<std::uint16_t>(static_cast<std::int32_t>(v * inverse) + (bits_of(v) >> 31) + BINS);
    }
    return zeros;
}

// Four banks of counters around bin 0. All counters are zero between uses, so a thread keeps one.
class Banks {
  public:
    Banks() : counters_(BANKS * SIZE, 0) {}

    void count(const std::uint16_t* place, std::size_t count) {
        std::uint32_t* bank = counters_.data();
        std::size_t i = 0;
        for (; i + BANKS <= count; i += BANKS) {
            ++bank[place[i]];
            ++bank[SIZE + place[i + 1]];
            ++bank[2 * SIZE + place[i + 2]];
            ++bank[3 * SIZE + place[i + 3]];
        }
        for (; i < count; ++i) ++bank[place[i]];
    }

    // Make every bin 2^shift times as wide; `negative` and `positive` bins were in use.
    void coarsen(int shift, int negative, int positive) {
        shift = std::min(shift, 13);
        for (int b = 0; b < BANKS; ++b) {
            std::uint32_t* middle = counters_.data() + b * SIZE + BINS;
            for (int m = 1; m < positive; ++m) move(middle + m, middle + (m >> shift));
            for (int m = 1; m < negative; ++m) move(middle - 1 - m, middle - 1 - (m >> shift));
        }
    }

    // The sum of the banks over the bins in use, which are left at zero.
    std::vector<std::int64_t> take(int negative, int positive) {
        std::vector<std::int64_t> counts(static_cast<std::size_t>(negative + std::max(positive, 1)), 0);
        for (int b = 0; b < BANKS; ++b) {
            std::uint32_t* first = counters_.data() + b * SIZE + BINS - negative;
            for (std::size_t i = 0; i < counts.size(); ++i) {
                counts[i] += first[i];
                first[i] = 0;
            }
        }
        return counts;
    }

  private:
    static constexpr std::size_t SIZE = 2 * BINS;

    static void move(std::uint32_t* from, std::uint32_t* to) {
        const std::uint32_t moved = *from;
        *from = 0;
        *to += moved;
    }

    std::vector<std::uint32_t> counters_;
};

// Copy each `stride`-th element from `first` on, but for NaN and infinities if `filter`.
inline std::size_t sample(const float* x, std::size_t count, std::size_t first, std::size_t stride, bool filter,
                          float* out) {
    std::size_t size = 0;
    for (std::size_t i = first; i < count; i += stride) {
        out[size] = x[i];
        size += !filter || std::isfinite(x[i]);
    }
    return size;
}

// A histogram that chunks are put into, at most SEGMENT elements.
class Filling {
  public:
    // Take in the extrema of elements, some of which may be counted.
    void reach(const Extrema& found) { h_.extrema.merge(found); }

    // Count `size` <= CHUNK finite elements within reach.
    void count(const float* chunk, std::size_t size) {
        widen();
        std::uint16_t place[CHUNK];
        h_.zeros += places(chunk, size, std::ldexp(1.0f, -h_.exponent), place);
        banks().count(place, size);
    }

    // Where at most `most` <= CHUNK elements may be put, to be counted with others; `keep` says how many were. They need
    // not be within reach yet.
    float* room(std::size_t most) {
        if (held_ + most > CHUNK) flush();
        return waiting_ + held_;
    }
    void keep(std::size_t size) { held_ += size; }

    Histogram finish() {
        flush();
        widen();
        h_.negative = negative_bins(h_.extrema, h_.exponent);
        const int positive = positive_bins(h_.extrema, h_.exponent);
        h_.counts = banks().take(h_.negative, positive);
        h_.counts[static_cast<std::size_t>(h_.negative)] -= h_.zeros;
        h_.counts.resize(static_cast<std::size_t>(h_.negative + positive));
        return std::move(h_);
    }

  private:
    static Banks& banks() {
        static thread_local Banks one;
        return one;
    }

    void flush() {
        if (held_ == 0) return;
        reach(chunk_extrema(waiting_, held_, key_range(waiting_, held_)));
        count(waiting_, held_);
        held_ = 0;
    }

    // Make the bins as wide as the extrema ask.
    void widen() {
        if (h_.extrema.low == counted_.low && h_.extrema.high == counted_.high) return;
        const int exponent = exponent_for(h_.extrema);
        if (exponent != h_.exponent)
            banks().coarsen(exponent - h_.exponent, negative_bins(counted_, h_.exponent),
                            positive_bins(counted_, h_.exponent));
        h_.exponent = exponent;
        counted_ = h_.extrema;
    }

    Histogram h_;
    Extrema counted_;  // what the bins were last widened to
    std::size_t held_ = 0;
    float waiting_[CHUNK];
};

// Histogram of `count` <= SEGMENT elements; element i is counted if (start + i) % stride = 0, extrema see all.
inline Histogram fill(const float* x, std::size_t count, std::size_t start, std::size_t stride) {
    Filling filling;
    for (std::size_t i = 0; i < count; i += CHUNK) {
        const std::size_t size = std::min(CHUNK, count - i);
        const float* chunk = x + i;
        const KeyRange keys = key_range(chunk, size);
        filling.reach(chunk_extrema(chunk, size, keys));
        if (stride == 1 && all_finite(keys)) {
            filling.count(chunk, size);
            continue;
        }
        const std::size_t past = (start + i) % stride;
        float* out = filling.room((size + stride - 1) / stride);
        filling.keep(sample(chunk, size, past ? stride - past : 0, stride, !all_finite(keys), out));
    }
    return filling.finish();
}

// How a tensor [batch, channels, plane] lies in memory: [batch, channels / block, plane, block]; and what each channel
// is to be multiplied by, or nothing.
struct Planes {
    std::size_t plane;
    std::size_t block;
    const float* factors;  // [channels], or null
    std::size_t channels;
};

// Extrema of one lane times its factor, from its keys. Rounding keeps the order, so the extrema of the products are the
// products of the extrema, as long as these are finite and the factor is positive.
inline Extrema lane_extrema(const float* x, std::size_t positions, std::size_t block, std::int32_t low,
                            std::int32_t high, float factor) {
    Extrema found;
    found.low = float_of(key_of(low)) * factor + 0.0f;
    found.high = float_of(key_of(high)) * factor + 0.0f;
    if (factor > 0.0f && std::isfinite(found.low) && std::isfinite(found.high)) return found;
    found = Extrema();
    for (std::size_t p = 0; p < positions; ++p) {
        const float v = x[p * block] * factor;
        found.merge(reference::extrema(&v, 1));
    }
    return found;
}

// Histogram of a tensor that lies in planes: that of `fill` for the same tensor as it is written, times the factors.
inline Histogram fill(const float* x, std::size_t count, std::size_t stride, const Planes& in) {
    Filling filling;
    std::vector<std::size_t> next(in.block);  // of each lane, the position to be counted next, from the chunk's first
    std::vector<std::int32_t> low(in.block), high(in.block);
    const std::size_t most = CHUNK / in.block * std::min(stride, TOGETHER);
    for (std::size_t channel = 0; channel * in.plane < count; channel += in.block) {
        const float* plane = x + channel * in.plane;
        const float* factors = in.factors ? in.factors + channel % in.channels : nullptr;
        for (std::size_t lane = 0; lane < in.block; ++lane) {
            const std::size_t past = (channel + lane) * in.plane % stride;
            next[lane] = past ? stride - past : 0;
            low[lane] = KeyRange().low;
            high[lane] = KeyRange().high;
        }
        for (std::size_t p = 0; p < in.plane; p += most) {
            const std::size_t positions = std::min(most, in.plane - p);
            const float* chunk = plane + p * in.block;
            if (in.block == 1) {
                const KeyRange keys = key_range(chunk, positions);
                low[0] = std::min(low[0], keys.low);
                high[0] = std::max(high[0], keys.high);
            } else {
                lane_keys(chunk, positions, in.block, low.data(), high.data());
            }
            float* out = filling.room(in.block * ((positions + stride - 1) / stride));
            std::size_t kept = 0;
            for (std::size_t lane = 0; lane < in.block; ++lane) {
                const float factor = factors ? factors[lane] : 1.0f;
                std::size_t at = next[lane];
                for (; at < positions; at += stride) {
                    out[kept] = chunk[at * in.block + lane] * factor;
                    kept += std::isfinite(out[kept]);
                }
                next[lane] = at - positions;
            }
            filling.keep(kept);
        }
        for (std::size_t lane = 0; lane < in.block; ++lane)
            filling.reach(lane_extrema(plane + lane, in.plane, in.block, low[lane], high[lane], factors ? factors[lane] : 1.0f));
    }
    return filling.finish();
}

// The histogram of both; equal to that of the data put together.
inline Histogram merge(const Histogram& a, const Histogram& b) {
    Histogram sum;
    sum.extrema = a.extrema;
    sum.extrema.merge(b.extrema);
    sum.exponent = exponent_for(sum.extrema);
    sum.negative = negative_bins(sum.extrema, sum.exponent);
    sum.counts.assign(static_cast<std::size_t>(sum.negative + positive_bins(sum.extrema, sum.exponent)), 0);
    sum.zeros = a.zeros + b.zeros;
    for (const Histogram* part : {&a, &b}) {
        const int shift = std::min(sum.exponent - part->exponent, 13);
        for (int i = 0; i < static_cast<int>(part->counts.size()); ++i) {
            const int bin = i - part->negative;  // an arithmetic shift, as -1 - (m >> k) = (-1 - m) >> k
            sum.counts[static_cast<std::size_t>(sum.negative + (bin >> shift))] += part->counts[static_cast<std::size_t>(i)];
        }
    }
    return sum;
}

// Start a thread for `job`, unless the system has none to give.
template <typename Job>
bool launch(std::vector<std::thread>& crew, Job job) {
    try {
        crew.emplace_back(job);
    } catch (const std::system_error&) {
        return false;
    }
    return true;
}

// Cut [0, count) for at most `threads` threads, work on the parts at once, and fold their results in order.
template <typename Result, typename Work, typename Fold>
Result in_parallel(std::size_t count, int threads, Work work, Fold fold) {
    const std::size_t most = static_cast<std::size_t>(std::max(threads, 1));
    std::size_t parts = std::min(most, std::max(count / PARALLEL_GRAIN, std::size_t{1}));
    parts = std::max(parts, (count + SEGMENT - 1) / SEGMENT);
    const std::size_t size = (count + parts - 1) / parts;
    std::vector<Result> results(parts);
    for (std::size_t done = 0; done < parts; done += most) {
        std::vector<std::thread> crew;
        const std::size_t end = std::min(parts, done + most);
        for (std::size_t p = done; p < end; ++p) {
            const std::size_t begin = std::min(p * size, count);
            auto job = [&results, &work, p, begin, stop = std::min(begin + size, count)] {
                results[p] = work(begin, stop - begin);
            };
            if (p + 1 < end && launch(crew, job)) continue;
            job();
        }
        for (std::thread& one : crew) one.join();
    }
    Result total = std::move(results[0]);
    for (std::size_t p = 1; p < parts; ++p) total = fold(total, results[p]);
    return total;
}

inline Histogram histogram(const float* x, std::size_t count, std::size_t stride, int threads) {
    return in_parallel<Histogram>(
        count, threads, [=](std::size_t begin, std::size_t size) { return fill(x + begin, size, begin, stride); }, merge);
}

inline Extrema extrema(const float* x, std::size_t count, int threads) {
    return in_parallel<Extrema>(
        count, threads, [=](std::size_t begin, std::size_t size) { return extrema(x + begin, size); },
        [](Extrema a, const Extrema& b) {
            a.merge(b);
            return a;
        });
}

namespace reference {

inline Histogram histogram(const float* x, std::size_t count, std::size_t stride) {
    Histogram h;
    h.extrema = extrema(x, count);
    h.exponent = exponent_for(h.extrema);
    h.negative = negative_bins(h.extrema, h.exponent);
    h.counts.assign(static_cast<std::size_t>(h.negative + positive_bins(h.extrema, h.exponent)), 0);
    for (std::size_t i = 0; i < count; i += stride) {
        if (!std::isfinite(x[i])) continue;
        if (x[i] == 0.0f) {
            ++h.zeros;
            continue;
        }
        const int m = static_cast<int>(std::ldexp(std::fabs(static_cast<double>(x[i])), -h.exponent));
        ++h.counts[static_cast<std::size_t>(h.negative + (x[i] < 0.0f ? -1 - m : m))];
    }
    return h;
}

}  // namespace reference
}  // namespace halfeven
