// The part of the Python module for layers on codes: `halfeven/layer.hpp`, `halfeven/pairs.hpp`.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "arrays.hpp"
#include "halfeven/layer.hpp"
#include "halfeven/pairs.hpp"
#include "halfeven/quantize.hpp"
#include "halfeven/requantize.hpp"

namespace {

// `shape`: (out channels, channels of a group, kernel rows, kernel columns).
using WeightShape = std::tuple<std::size_t, std::size_t, std::size_t, std::size_t>;

template <typename Weight>
void new_weights(halfeven::PackedWeights* self, Input<Weight> weight, Input<std::int32_t> zeros, WeightShape shape,
                 std::size_t groups, int most) {
    const auto [out, in, high, wide] = shape;
    if (out == 0 || in == 0 || high == 0 || wide == 0 || groups == 0 || out % groups != 0 ||
        weight.size() != out * in * high * wide || zeros.size() != out)
        throw std::invalid_argument("PackedWeights: the arrays do not have the sizes that the shape asks for");
    for (std::size_t o = 0; o < out; ++o)
        if (zeros.data()[o] < -128 || zeros.data()[o] > 255)
            throw std::invalid_argument("PackedWeights: a zero point is no code of 8 bits");
    const halfeven::ConvShape held = {0, in * groups, out, groups, {0, high, 1, 1, 0, 0}, {0, wide, 1, 1, 0, 0}};
    nb::gil_scoped_release unlocked;
    new (self) halfeven::PackedWeights(halfeven::pack_weights(weight.data(), zeros.data(), held, most));
}

// `sizes`: (images, rows, columns); `window`: strides, dilations, pads at the begin, pads at the end, each (y, x).
using Sizes = std::tuple<std::size_t, std::size_t, std::size_t>;

halfeven::ConvShape shape_of(const halfeven::PackedWeights& weights, Sizes sizes, const std::vector<std::size_t>& window,
                             std::size_t count_in, std::size_t count_out) {
    constexpr std::size_t MOST = 1 << 20;
    if (window.size() != 8 || *std::max_element(window.begin(), window.end()) > MOST || window[0] == 0 || window[1] == 0 ||
        window[2] == 0 || window[3] == 0)
        throw std::invalid_argument("layer: the window has two strides, dilations from 1 on, and four pads");
    halfeven::ConvShape shape = weights.shape;
    shape.batch = std::get<0>(sizes);
    shape.y = {std::get<1>(sizes), shape.y.kernel, window[0], window[2], window[4], window[6]};
    shape.x = {std::get<2>(sizes), shape.x.kernel, window[1], window[3], window[5], window[7]};
    if (shape.batch * shape.in_channels * shape.y.in * shape.x.in != count_in ||
        shape.batch * shape.out_channels * shape.positions() != count_out)
        throw std::invalid_argument("layer: the arrays do not have the sizes that the shape asks for");
    return shape;
}

std::vector<halfeven::Rescale> rescales(Input<double> multipliers, int flavour, std::size_t channels) {
    if (flavour < 0 || flavour >= static_cast<int>(halfeven::Requant::SHIFT))
        throw std::invalid_argument("layer: there is no such flavour");
    if (multipliers.size() != channels) throw std::invalid_argument("layer: one multiplier for each channel is wanted");
    std::vector<halfeven::Rescale> by(channels);
    for (std::size_t o = 0; o < channels; ++o)
        by[o] = halfeven::rescale_of(multipliers.data()[o], static_cast<halfeven::Requant>(flavour));
    return by;
}

bool all_valid(const std::vector<halfeven::Rescale>& by) {
    return std::all_of(by.begin(), by.end(), [](const halfeven::Rescale& one) { return one.valid; });
}

template <typename In>
void layer_sums(const halfeven::PackedWeights& weights, Input<In> x, Sizes sizes, const std::vector<std::size_t>& window,
                std::int32_t zero, Input<std::int32_t> bias, int threads, InOut<std::int32_t> out) {
    const auto shape = shape_of(weights, sizes, window, x.size(), out.size());
    if (bias.size() != 0 && bias.size() != shape.out_channels)
        throw std::invalid_argument("layer: one bias for each channel is wanted, or none");
    nb::gil_scoped_release unlocked;
    halfeven::layer(x.data(), weights, shape, {zero, bias.size() ? bias.data() : nullptr}, {nullptr, 0, {0, 0}}, threads,
                    out.data());
}

// False, and nothing computed, if the flavour cannot express a multiplier.
template <typename In, typename Code>
bool layer_codes(const halfeven::PackedWeights& weights, Input<In> x, Sizes sizes, const std::vector<std::size_t>& window,
                 std::int32_t zero, Input<std::int32_t> bias, Input<double> multipliers, int flavour,
                 std::int32_t zero_point, std::int32_t low, std::int32_t high, int threads, InOut<Code> out) {
    const auto shape = shape_of(weights, sizes, window, x.size(), out.size());
    if (bias.size() != 0 && bias.size() != shape.out_channels)
        throw std::invalid_argument("layer: one bias for each channel is wanted, or none");
    const auto by = rescales(multipliers, flavour, shape.out_channels);
    if (!all_valid(by)) return false;
    nb::gil_scoped_release unlocked;
    halfeven::layer(x.data(), weights, shape, {zero, bias.size() ? bias.data() : nullptr},
                    {by.data(), zero_point, {low, high}}, threads, out.data());
    return true;
}

template <typename Code>
bool requantize(Input<std::int32_t> acc, Cut cut, Input<double> multipliers, int flavour, std::int32_t zero_point,
                std::int32_t low, std::int32_t high, InOut<Code> codes) {
    const halfeven::Layout layout = {std::get<0>(cut), std::get<1>(cut), std::get<2>(cut)};
    if (layout.size() != acc.size() || acc.size() != codes.size())
        throw std::invalid_argument("requantize: the arrays must have outer * channels * inner elements");
    const auto by = rescales(multipliers, flavour, layout.channels);
    if (!all_valid(by)) return false;
    nb::gil_scoped_release unlocked;
    halfeven::requantize(acc.data(), layout, by.data(), zero_point, {low, high}, codes.data());
    return true;
}

// (M, N, K) of `a` (M, K), `b` (N, K) and `acc` (M, N); K is even.
void gemm_paired(Input<std::uint8_t> a, Input<std::int8_t> b, Sizes shape, InOut<std::int32_t> acc) {
    const auto [m, n, k] = shape;
    if (k % 2 != 0 || a.size() != m * k || b.size() != n * k || acc.size() != m * n)
        throw std::invalid_argument("gemm_paired: the arrays do not have the sizes that the shape asks for");
    nb::gil_scoped_release unlocked;
    halfeven::gemm_paired(a.data(), b.data(), {m, n, k}, acc.data());
}

// table[256 * a + b] of the bytes of two arrays of codes.
void look_up_pairs(Input<std::uint8_t> a, Input<std::uint8_t> b, Input<std::uint8_t> table, InOut<std::uint8_t> out) {
    if (a.size() != b.size() || a.size() != out.size() || table.size() != 65536)
        throw std::invalid_argument("look_up_pairs: the arrays must have one size, the table 65536 entries");
    nb::gil_scoped_release unlocked;
    const std::uint8_t *first = a.data(), *second = b.data(), *found = table.data();
    std::uint8_t* made = out.data();
    const std::size_t count = out.size();  // read once: a byte written might else be part of it
    for (std::size_t i = 0; i < count; ++i) made[i] = found[256 * first[i] + second[i]];
}

template <typename In>
void define_layer(nb::module_& m, nb::class_<halfeven::PackedWeights>& weights) {
    using namespace nb::literals;
    weights.def("__init__", &new_weights<In>, "weight"_a.noconvert(), "zeros"_a.noconvert(), "shape"_a, "groups"_a,
                "most"_a = 3);
    m.def("layer_sums", &layer_sums<In>, "weights"_a, "x"_a.noconvert(), "sizes"_a, "window"_a, "zero"_a,
          "bias"_a.noconvert(), "threads"_a, "out"_a.noconvert());
    m.def("layer_codes", &layer_codes<In, std::int8_t>, "weights"_a, "x"_a.noconvert(), "sizes"_a, "window"_a, "zero"_a,
          "bias"_a.noconvert(), "multipliers"_a.noconvert(), "flavour"_a, "zero_point"_a, "low"_a, "high"_a, "threads"_a,
          "out"_a.noconvert());
    m.def("layer_codes", &layer_codes<In, std::uint8_t>, "weights"_a, "x"_a.noconvert(), "sizes"_a, "window"_a, "zero"_a,
          "bias"_a.noconvert(), "multipliers"_a.noconvert(), "flavour"_a, "zero_point"_a, "low"_a, "high"_a, "threads"_a,
          "out"_a.noconvert());
}

template <typename Code>
void define_requantize(nb::module_& m) {
    using namespace nb::literals;
    m.def("requantize", &requantize<Code>, "acc"_a.noconvert(), "cut"_a, "multipliers"_a.noconvert(), "flavour"_a,
          "zero_point"_a, "low"_a, "high"_a, "codes"_a.noconvert());
}

}  // namespace

void define_layers(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<halfeven::PackedWeights> weights(m, "PackedWeights");
    define_layer<std::int8_t>(m, weights);
    define_layer<std::uint8_t>(m, weights);
    define_requantize<std::int8_t>(m);
    define_requantize<std::uint8_t>(m);
    define_requantize<std::int16_t>(m);
    m.def("gemm_paired", &gemm_paired, "a"_a.noconvert(), "b"_a.noconvert(), "shape"_a, "acc"_a.noconvert());
    m.def("look_up_pairs", &look_up_pairs, "a"_a.noconvert(), "b"_a.noconvert(), "table"_a.noconvert(),
          "out"_a.noconvert());
}
