// Statistics: each fast kernel against its reference, bit for bit, over sizes around the vector widths and the chunk.
// No framework: prints what failed and exits with 1 if anything did.
#include <cmath>
#include <random>
#include <vector>

#include "check.hpp"
#include "halfeven/extrema.hpp"
#include "halfeven/histogram.hpp"
#include "halfeven/search.hpp"

namespace {

using test::check;
using test::Data;
using test::DATA;
using test::Floats;
using test::SIZES;

bool operator==(const halfeven::Extrema& a, const halfeven::Extrema& b) {
    return a.low == b.low && a.high == b.high && a.nans == b.nans && a.infs == b.infs;
}

bool operator==(const halfeven::Histogram& a, const halfeven::Histogram& b) {
    return a.extrema == b.extrema && a.exponent == b.exponent && a.negative == b.negative && a.zeros == b.zeros &&
           a.counts == b.counts;
}

void test_statistics(const Data& data, std::size_t size, std::mt19937& random) {
    const Floats x = data.make(size, random);
    check(halfeven::extrema(x.data(), size, 1) == halfeven::reference::extrema(x.data(), size), "extrema", data.name, size);
    for (std::size_t stride : {1, 5}) {
        const halfeven::Histogram want = halfeven::reference::histogram(x.data(), size, stride);
        check(halfeven::histogram(x.data(), size, stride, 1) == want, "histogram", data.name, size);
        const std::size_t cut = size / 3;
        const halfeven::Histogram left = halfeven::fill(x.data(), cut, 0, stride);
        const halfeven::Histogram right = halfeven::fill(x.data() + cut, size - cut, cut, stride);
        check(halfeven::merge(left, right) == want, "merge", data.name, size);
        check(halfeven::merge(right, left) == want, "merge in the other order", data.name, size);
    }
}

void test_channels(const Data& data, std::size_t inner, std::size_t block, std::mt19937& random) {
    const std::size_t outer = 2, channels = 3 * block;
    const Floats x = data.make(outer * channels * inner, random);
    if (inner == 0) return;
    const halfeven::Channels in{outer, channels, inner, block};
    for (std::size_t channel = 0; channel < channels; ++channel) {
        const std::size_t lane = channel % block, first = (channel - lane) * inner + lane, stride = 1 + inner % 7;
        Floats low(block), high(block);
        std::vector<double> squares(block);
        halfeven::channel_extrema(x.data(), in, channel - lane, low.data(), high.data());
        halfeven::channel_squares(x.data(), in, channel - lane, stride, squares.data());
        float least = x[first], most = least;
        double sum = 0;
        bool number = true;
        for (std::size_t i = 0; i < outer; ++i)
            for (std::size_t j = 0; j < inner; ++j) {
                const float v = x[i * channels * inner + first + j * block], square = v * v;
                number = number && !std::isnan(v);
                least = v < least ? v : least;
                most = v > most ? v : most;
                if ((i * inner + j) % stride == 0) sum += static_cast<double>(square);
            }
        const bool same = number ? low[lane] == least && high[lane] == most
                                 : std::isnan(low[lane]) && std::isnan(high[lane]);
        check(same, "extrema of channels", data.name, inner);
        check(squares[lane] == sum || (std::isnan(squares[lane]) && std::isnan(sum)), "squares of channels", data.name, inner);
    }
}

void test_threads(const Data& data, std::mt19937& random) {
    const std::size_t size = 3 * halfeven::PARALLEL_GRAIN + 7;
    const Floats x = data.make(size, random);
    for (int threads : {2, 3, 64}) {
        check(halfeven::extrema(x.data(), size, threads) == halfeven::reference::extrema(x.data(), size),
              "threaded extrema", data.name, size);
        check(halfeven::histogram(x.data(), size, 5, threads) == halfeven::reference::histogram(x.data(), size, 5),
              "threaded histogram", data.name, size);
    }
}

void test_search(std::size_t size, std::mt19937& random) {
    std::normal_distribution<double> draw;
    std::vector<double> edges((size + 7) / 8 * 8), weights(edges.size());
    for (std::size_t i = 0; i < edges.size(); ++i) {
        edges[i] = i % 3 ? draw(random) : 0.25 * static_cast<double>(i);  // some on ties
        weights[i] = draw(random);
    }
    for (double scale : {0.5, 0.0123, 1e-30}) {
        const halfeven::Codes codes{scale, -100.0, 155.0};
        check(halfeven::grid_error(edges.data(), weights.data(), edges.size(), codes) ==
                  halfeven::reference::grid_error(edges.data(), weights.data(), edges.size(), codes),
              "grid_error", "normal", edges.size());
    }
}

}  // namespace

int main() {
    std::mt19937 random(2026);
    for (const std::size_t size : SIZES) {
        for (const Data& data : DATA) test_statistics(data, size, random);
        for (const Data& data : DATA)
            for (std::size_t block : {1, 3, 8, 16}) test_channels(data, size, block, random);
        test_search(size, random);
    }
    for (const Data& data : DATA) test_threads(data, random);
    return test::finish();
}
