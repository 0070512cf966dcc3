// Tally: the histograms of several tensors over many samples, added up in place; `stats/observer.py` is its user.
//
// Equal to merging the histograms of the samples in any order: a histogram is a function of the multiset of its values.
// A sample's counts are added where they belong in the tally's bins, widened first if the sample is wider.
// Several threads may add at once: each tensor has a lock, held only while counts are added.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "halfeven/histogram.hpp"

namespace halfeven {

// Add `part` to `total`, in place when its bins are no wider and reach no further.
inline void absorb(Histogram& total, Histogram part) {
    Extrema both = total.extrema;
    both.merge(part.extrema);
    const bool inside = both.low == total.extrema.low && both.high == total.extrema.high;
    if (!inside || part.exponent > total.exponent || total.counts.empty()) {
        total = merge(total, part);
        return;
    }
    total.extrema = both;
    total.zeros += part.zeros;
    const int shift = std::min(total.exponent - part.exponent, 13);
    const int size = static_cast<int>(part.counts.size());
    const std::int64_t* from = part.counts.data();
    std::int64_t* middle = total.counts.data() + total.negative;
    if (shift == 0) {
        std::int64_t* to = middle - part.negative;
        for (int i = 0; i < size; ++i) to[i] += from[i];
    } else {
        for (int i = 0; i < size; ++i) middle[(i - part.negative) >> shift] += from[i];
    }
}

class Tally {
  public:
    explicit Tally(std::size_t tensors) : entries_(tensors) {}
    Tally(const Tally&) = delete;
    Tally& operator=(const Tally&) = delete;

    std::size_t size() const { return entries_.size(); }

    // Take a sample's tensor in, which lies in planes if they are given; returns the extrema of this sample.
    Extrema take(std::size_t index, const float* x, std::size_t count, std::size_t stride, const Planes* in = nullptr) {
        Histogram part = in ? fill(x, count, stride, *in) : histogram(x, count, stride, 1);
        const Extrema seen = part.extrema;
        Entry& entry = entries_[index];
        const std::lock_guard<std::mutex> held(entry.lock);
        absorb(entry.histogram, std::move(part));
        return seen;
    }

    Histogram found(std::size_t index) {
        const std::lock_guard<std::mutex> held(entries_[index].lock);
        return entries_[index].histogram;
    }

  private:
    struct Entry {
        std::mutex lock;
        Histogram histogram;
    };
    std::vector<Entry> entries_;
};

}  // namespace halfeven
