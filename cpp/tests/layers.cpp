// Layers: packed weights, panels, depthwise planes and saturating pairs against the plain loops, on every instruction set
// that this processor has and with several threads.
#include <cstdint>
#include <vector>

#include "check.hpp"
#include "halfeven/conv.hpp"
#include "halfeven/layer.hpp"
#include "halfeven/pairs.hpp"

namespace {

using halfeven::ConvShape;
using halfeven::Requant;
using halfeven::Rescale;
using test::check;
using test::Random;

const ConvShape SHAPES[] = {
    {1, 1, 1, 1, {1, 1, 1, 1, 0, 0}, {1, 1, 1, 1, 0, 0}},
    {2, 3, 17, 1, {9, 3, 1, 1, 1, 1}, {33, 3, 1, 1, 1, 1}},
    {1, 5, 9, 1, {8, 3, 2, 2, 0, 2}, {7, 2, 3, 1, 1, 0}},
    {2, 8, 8, 8, {15, 3, 1, 1, 1, 1}, {16, 3, 1, 1, 1, 1}},
    {1, 19, 19, 19, {7, 5, 2, 1, 2, 1}, {17, 3, 2, 2, 0, 3}},
    {1, 13, 13, 13, {31, 3, 3, 2, 0, 0}, {9, 4, 1, 1, 3, 3}},
    {1, 6, 12, 6, {5, 2, 1, 1, 1, 0}, {6, 2, 2, 1, 0, 1}},
    {1, 6, 10, 2, {4, 1, 1, 1, 0, 0}, {33, 1, 1, 1, 0, 0}},
    {3, 41, 70, 1, {1, 1, 1, 1, 0, 0}, {1, 1, 1, 1, 0, 0}},
};

template <typename In, typename Weight>
void test_layer(const ConvShape& shape, Random& random) {
    const std::size_t made = shape.batch * shape.out_channels * shape.positions();
    const auto x = test::integers<In>(shape.batch * shape.in_channels * shape.y.in * shape.x.in, random);
    const auto w = test::integers<Weight>(shape.out_channels * shape.patch(), random);
    const auto bias = test::integers<std::int32_t>(shape.out_channels, random);
    const auto codes = test::integers<Weight>(shape.out_channels, random);
    const std::vector<std::int32_t> zeros(codes.begin(), codes.end());
    const std::int32_t zero = x[0];
    std::vector<std::int32_t> want(made), sums(made);
    halfeven::reference::conv(x.data(), w.data(), shape, {zero, zeros.data(), bias.data()}, want.data());
    std::vector<Rescale> by(shape.out_channels, halfeven::rescale_of(0.00123, Requant::DOUBLE_ROUNDING));
    std::vector<std::int8_t> wanted(made), found(made);
    for (std::size_t i = 0; i < made; ++i)
        wanted[i] = static_cast<std::int8_t>(halfeven::requantize(want[i], by[0], -3, {-128, 100}));
    for (int most = 0; most <= 3; ++most) {
        const auto packed = halfeven::pack_weights(w.data(), zeros.data(), shape, most);
        for (int threads : {1, 4}) {
            halfeven::layer(x.data(), packed, shape, {zero, bias.data()}, {nullptr, 0, {0, 0}}, threads, sums.data());
            check(sums == want, "layer, sums", "integers", made);
            halfeven::layer(x.data(), packed, shape, {zero, bias.data()}, {by.data(), -3, {-128, 100}}, threads,
                            found.data());
            check(found == wanted, "layer, codes", "integers", made);
        }
    }
}

void test_pairs(std::size_t k, Random& random) {
    const auto a = test::integers<std::uint8_t>(3 * k, random);
    const auto b = test::integers<std::int8_t>(2 * k, random);
    std::int32_t found[6];
    halfeven::gemm_paired(a.data(), b.data(), {3, 2, k}, found);
    for (std::size_t m = 0; m < 3; ++m)
        for (std::size_t n = 0; n < 2; ++n)
            check(found[m * 2 + n] == halfeven::reference::paired(a.data() + m * k, b.data() + n * k, k), "gemm_paired",
                  "integers", k);
}

}  // namespace

int main() {
    Random random(3);
    for (const ConvShape& shape : SHAPES) {
        test_layer<std::uint8_t, std::int8_t>(shape, random);
        test_layer<std::uint8_t, std::uint8_t>(shape, random);
        test_layer<std::int8_t, std::int8_t>(shape, random);
    }
    for (std::size_t k : {2, 30, 32, 34, 64, 130}) test_pairs(k, random);
    return test::finish();
}
