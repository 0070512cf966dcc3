// Codes: quantize, dequantize, fake quantization and its gradients, each fast kernel against its reference, bit for bit,
// over sizes around the vector widths, layouts with long and short runs, and data that looks for trouble.
#include <cstdint>
#include <limits>
#include <vector>

#include "check.hpp"
#include "halfeven/clamped.hpp"
#include "halfeven/lsq.hpp"
#include "halfeven/quantize.hpp"

namespace {

using halfeven::CodeRange;
using halfeven::Layout;
using test::check;
using test::Data;
using test::DATA;
using test::Floats;
using test::Random;
using test::same;
using test::SIZES;

struct Parameters {
    Floats scales;
    std::vector<std::int32_t> zeros;
};

Parameters parameters(std::size_t channels, CodeRange range, Random& random) {
    Parameters p;
    const float first[] = {0.0625f, 0.0123f, 1.1754944e-38f, 3e37f};  // ties; ordinary; least normal; huge
    for (std::size_t c = 0; c < channels; ++c) {
        p.scales.push_back(c < 4 ? first[c] : 1e-3f * static_cast<float>(1 + random() % 1000));
        const auto span = static_cast<std::uint32_t>(range.high) - static_cast<std::uint32_t>(range.low);
        const auto drawn = static_cast<std::int64_t>(range.low) + (span == 0xffffffffu ? 0 : random() % (span + 1u));
        p.zeros.push_back(c % 3 == 1 ? 0 : static_cast<std::int32_t>(drawn));
    }
    return p;
}

// Cut `size` elements into a whole number of rows.
Layout layout_of(std::size_t size, std::size_t channels, std::size_t inner) {
    return {size / (channels * inner), channels, inner};
}

template <typename Code>
void test_codes(const char* what, CodeRange range, const Data& data, Layout layout, Random& random) {
    const std::size_t size = layout.size();
    const Floats x = data.make(size, random);
    const Parameters p = parameters(layout.channels, range, random);
    std::vector<Code> codes(size), want(size);
    Floats values(size), back(size), fake(size);
    for (std::size_t e = 0; e < size; ++e) {
        const std::size_t c = layout.channel_of(e);
        want[e] = halfeven::reference::quantize<Code>(x[e], p.scales[c], p.zeros[c], range);
        back[e] = halfeven::reference::dequantize(want[e], p.scales[c], p.zeros[c]);
    }
    halfeven::quantize(x.data(), layout, p.scales.data(), p.zeros.data(), range, codes.data());
    halfeven::dequantize(want.data(), layout, p.scales.data(), p.zeros.data(), values.data());
    halfeven::fake_quantize(x.data(), layout, p.scales.data(), p.zeros.data(), range, fake.data());
    check(same(codes, want), "quantize", what, size);
    check(same(values, back), "dequantize", what, size);
    check(same(fake, back), "fake_quantize", what, size);
    const std::vector<Code> any = test::integers<Code>(size, random);
    for (std::size_t e = 0; e < size; ++e) {
        const std::size_t c = layout.channel_of(e);
        back[e] = halfeven::reference::dequantize(any[e], p.scales[c], p.zeros[c]);
    }
    halfeven::dequantize(any.data(), layout, p.scales.data(), p.zeros.data(), values.data());
    check(same(values, back), "dequantize of any code", what, size);
}

void test_lsq(CodeRange range, const Data& data, Layout layout, Random& random) {
    const std::size_t size = layout.size();
    const Floats x = data.make(size, random), g = test::normal(size, random);
    const Parameters p = parameters(layout.channels, range, random);
    Floats got[3] = {Floats(size), Floats(layout.channels), Floats(layout.channels)}, want[3] = {got[0], got[1], got[2]};
    halfeven::lsq_backward(x.data(), g.data(), layout, p.scales.data(), p.zeros.data(), range,
                           {got[0].data(), got[1].data(), got[2].data()});
    halfeven::reference::lsq_backward(x.data(), g.data(), layout, p.scales.data(), p.zeros.data(), range,
                                      {want[0].data(), want[1].data(), want[2].data()});
    check(same(got[0], want[0]), "lsq_backward, x", data.name, size);
    check(same(got[1], want[1]), "lsq_backward, scale", data.name, size);
    check(same(got[2], want[2]), "lsq_backward, zero point", data.name, size);
}

void test_clamped(CodeRange range, const Data& data, std::size_t size, Random& random) {
    const Floats x = data.make(size, random), g = test::normal(size, random);
    const float infinity = std::numeric_limits<float>::infinity();
    const std::int32_t zero = range.low + 3;
    for (const halfeven::Clamp clamp : {halfeven::Clamp{-infinity, infinity}, {0.0f, infinity}, {0.0f, 6.0f}, {-1.0f, 0.5f}})
        for (const float scale : {0.0625f, 0.0123f})
            for (const int threads : {1, 3}) {
                Floats got(size), want(size);
                halfeven::fake_quantize_clamped(x.data(), size, scale, zero, range, clamp, threads, got.data());
                halfeven::reference::fake_quantize_clamped(x.data(), size, scale, zero, range, clamp, want.data());
                check(same(got, want), "fake_quantize_clamped", data.name, size);
                Floats sums[2] = {Floats(2), Floats(2)};
                halfeven::lsq_backward_clamped(x.data(), g.data(), size, scale, zero, range, clamp, threads,
                                               {got.data(), &sums[0][0], &sums[0][1]});
                halfeven::reference::lsq_backward_clamped(x.data(), g.data(), size, scale, zero, range, clamp,
                                                          {want.data(), &sums[1][0], &sums[1][1]});
                check(same(got, want), "lsq_backward_clamped, x", data.name, size);
                check(same(sums[0], sums[1]), "lsq_backward_clamped, sums", data.name, size);
                halfeven::lsq_backward_clamped(x.data(), g.data(), size, scale, zero, range, clamp, threads,
                                               {got.data(), nullptr, nullptr});
                check(same(got, want), "lsq_backward_clamped without sums", data.name, size);
            }
}

void test_layout(Layout layout, const Data& data, Random& random) {
    test_codes<std::int8_t>("int8", {-128, 127}, data, layout, random);
    test_codes<std::int8_t>("int4", {-8, 7}, data, layout, random);
    test_codes<std::uint8_t>("uint8", {0, 255}, data, layout, random);
    test_codes<std::int16_t>("int16", {-32768, 32767}, data, layout, random);
    test_codes<std::uint16_t>("uint16", {0, 65535}, data, layout, random);
    constexpr std::int32_t LEAST = std::numeric_limits<std::int32_t>::min(), MOST = std::numeric_limits<std::int32_t>::max();
    test_codes<std::int32_t>("int32", {LEAST, MOST}, data, layout, random);
    test_codes<std::int32_t>("24 bits", {-(1 << 23), (1 << 23) - 1}, data, layout, random);
    test_lsq({-127, 127}, data, layout, random);
    test_lsq({0, 15}, data, layout, random);
}

// All that happens near the place where a code changes: the 65536 floats around each of them, for several scales.
void test_around_ties(Random& random) {
    Floats x;
    for (int code : {-128, -127, -1, 0, 1, 126, 127})
        for (int ulps = -400; ulps <= 400; ++ulps)
            for (float half : {-0.5f, 0.5f}) {
                const float at = (static_cast<float>(code) + half) * 0.0123f;
                x.push_back(halfeven::float_of(halfeven::bits_of(at) + ulps));
            }
    const Data near_ties = {"around ties", nullptr};
    for (float scale : {0.0123f, 0.01229999f, 0.0246f}) {
        std::vector<std::int8_t> codes(x.size()), want(x.size());
        const std::int32_t zero = static_cast<std::int32_t>(random() % 20) - 10;
        for (std::size_t e = 0; e < x.size(); ++e)
            want[e] = halfeven::reference::quantize<std::int8_t>(x[e], scale, zero, {-128, 127});
        halfeven::quantize(x.data(), {1, 1, x.size()}, &scale, &zero, {-128, 127}, codes.data());
        check(same(codes, want), "quantize", near_ties.name, x.size());
    }
}

}  // namespace

// With an argument, fewer kinds of data: for emulators.
int main(int count, char**) {
    Random random(2026);
    for (const Data& data : DATA) {
        if (count > 1 && data.make != test::any_bits && data.make != test::ties) continue;
        for (const std::size_t size : SIZES)
            if (count == 1 || size <= 1000) test_layout({1, 1, size}, data, random);
        for (const std::size_t inner : {1, 3, 9, 16, 17, 63, 64, 65}) {
            test_layout(layout_of(4096, 5, inner), data, random);
            test_layout({1, 7, inner}, data, random);
        }
        test_layout({3, 1500, 1}, data, random);  // rows longer than a stretch
        test_layout({2, 500, 9}, data, random);
        test_layout({0, 5, 3}, data, random);
        test_layout({5, 0, 3}, data, random);
        test_layout({5, 3, 0}, data, random);
        for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{33}, std::size_t{511}, std::size_t{1300}})
            test_clamped({-128, 127}, data, size, random);
        if (count == 1) test_clamped({0, 15}, data, 2 * halfeven::TASK + 700, random);  // three tasks
    }
    test_around_ties(random);
    return test::finish();
}
