// The Python module `halfeven.numerics._native`: checks shapes, frees the interpreter lock, calls a header.
// `numerics/native.py` is its only user; `numerics/_native.pyi` states its types.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "halfeven/crew.hpp"
#include "halfeven/extrema.hpp"
#include "halfeven/feedback.hpp"
#include "halfeven/histogram.hpp"
#include "halfeven/layer.hpp"
#include "halfeven/lsq.hpp"
#include "halfeven/pairs.hpp"
#include "halfeven/quantize.hpp"
#include "halfeven/search.hpp"
#include "halfeven/tally.hpp"

namespace nb = nanobind;

void define_bits(nb::module_& m);     // bits.cpp
void define_clamped(nb::module_& m);  // clamped.cpp

namespace {

template <typename T>
using Input = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Output = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

template <typename T>
using InOut = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T>
Output<T> as_array(std::vector<T> values) {
    auto* owned = new std::vector<T>(std::move(values));
    nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return Output<T>(owned->data(), {owned->size()}, owner);
}

nb::tuple extrema(Input<float> x, int threads) {
    halfeven::Extrema e;
    {
        nb::gil_scoped_release unlocked;
        e = halfeven::extrema(x.data(), x.size(), threads);
    }
    return nb::make_tuple(e.low, e.high, e.nans, e.infs);
}

nb::tuple channel_summary(Input<float> x, std::tuple<std::size_t, std::size_t, std::size_t> cut, std::size_t block,
                          std::size_t stride, int threads) {
    const auto [outer, channels, inner] = cut;
    if (outer < 1 || inner < 1 || x.size() != outer * channels * inner)
        throw std::invalid_argument("channel_summary: x must have outer * channels * inner elements");
    if (block < 1 || channels % block) throw std::invalid_argument("channel_summary: block must divide channels");
    if (stride < 1) throw std::invalid_argument("channel_summary: stride must be at least 1");
    const halfeven::Channels in{outer, channels, inner, block};
    std::vector<float> low(channels), high(channels);
    std::vector<double> squares(channels);
    {
        nb::gil_scoped_release unlocked;
        halfeven::Crew::get().run(threads, channels / block, [&](std::size_t part) {
            const std::size_t first = part * in.block;
            halfeven::channel_extrema(x.data(), in, first, low.data() + first, high.data() + first);
            halfeven::channel_squares(x.data(), in, first, stride, squares.data() + first);
        });
    }
    return nb::make_tuple(as_array(std::move(low)), as_array(std::move(high)), as_array(std::move(squares)));
}

nb::tuple as_tuple(halfeven::Histogram h) {
    const halfeven::Extrema& e = h.extrema;
    return nb::make_tuple(nb::make_tuple(e.low, e.high, e.nans, e.infs), h.zeros, as_array(std::move(h.counts)));
}

nb::tuple histogram(Input<float> x, std::size_t stride, int threads) {
    if (stride == 0) throw std::invalid_argument("histogram: stride must be at least 1");
    halfeven::Histogram h;
    {
        nb::gil_scoped_release unlocked;
        h = halfeven::histogram(x.data(), x.size(), stride, threads);
    }
    return as_tuple(std::move(h));
}

Output<double> grid_errors(Input<double> edges, Input<double> weights, Input<double> scale, Input<double> low,
                           Input<double> high) {
    if (edges.size() != weights.size() || edges.size() % halfeven::LANES != 0)
        throw std::invalid_argument("grid_errors: edges and weights must have one length, a multiple of 8");
    if (scale.size() != low.size() || scale.size() != high.size())
        throw std::invalid_argument("grid_errors: scale, low and high must have one length");
    std::vector<double> errors(scale.size());
    {
        nb::gil_scoped_release unlocked;
        for (std::size_t i = 0; i < errors.size(); ++i) {
            const halfeven::Codes codes{scale.data()[i], low.data()[i], high.data()[i]};
            errors[i] = halfeven::grid_error(edges.data(), weights.data(), edges.size(), codes);
        }
    }
    return as_array(std::move(errors));
}

// One sample of each tensor: extrema of the sample, shape (tensors, 4): low, high, NaN, infinities.
// (plane, block, factors); a plane of 0: the tensor is as it is written.
using Lying = std::tuple<std::size_t, std::size_t, Input<float>>;

halfeven::Planes planes(const Lying& lying, std::size_t count) {
    const auto& [plane, block, factors] = lying;
    if (plane == 0) return {0, 1, nullptr, 1};
    if (block < 1 || block > halfeven::CHUNK || count % (plane * block) != 0)
        throw std::invalid_argument("Tally.take: a tensor must have whole blocks of whole planes");
    const std::size_t channels = factors.size();
    if (channels % block != 0 || (channels && count % (plane * channels) != 0))
        throw std::invalid_argument("Tally.take: one factor was expected for each channel");
    return {plane, block, channels ? factors.data() : nullptr, std::max(channels, std::size_t{1})};
}

Output<double> tally_take(halfeven::Tally& tally, const std::vector<Input<float>>& tensors,
                          const std::vector<std::size_t>& strides, const std::vector<Lying>& lying, int threads) {
    if (tensors.size() != tally.size() || strides.size() != tally.size() || lying.size() != tally.size())
        throw std::invalid_argument("Tally.take: one array, one stride and one layout were expected for each tensor");
    if (std::find(strides.begin(), strides.end(), std::size_t{0}) != strides.end())
        throw std::invalid_argument("Tally.take: a stride must be at least 1");
    std::vector<double> seen(4 * tensors.size());
    std::vector<halfeven::Planes> in;
    for (std::size_t i = 0; i < tensors.size(); ++i) in.push_back(planes(lying[i], tensors[i].size()));
    {
        nb::gil_scoped_release unlocked;
        halfeven::Crew::get().run(threads, tensors.size(), [&](std::size_t i) {
            const halfeven::Extrema e =
                tally.take(i, tensors[i].data(), tensors[i].size(), strides[i], in[i].plane ? &in[i] : nullptr);
            const double row[] = {e.low, e.high, static_cast<double>(e.nans), static_cast<double>(e.infs)};
            std::copy(row, row + 4, seen.data() + 4 * i);
        });
    }
    return as_array(std::move(seen));
}

nb::tuple tally_found(halfeven::Tally& tally, std::size_t index) {
    if (index >= tally.size()) throw std::out_of_range("Tally.found: there is no such tensor");
    return as_tuple(tally.found(index));
}

// (outer, channels, inner) of arrays of `count` elements, and what the kernels ask of scales and zero points.
using Cut = std::tuple<std::size_t, std::size_t, std::size_t>;
using Scales = Input<float>;
using Zeros = Input<std::int32_t>;

halfeven::Layout checked(Cut cut, std::size_t count, std::size_t count_out, const Scales& scales, const Zeros& zeros,
                         bool wide) {
    const halfeven::Layout layout = {std::get<0>(cut), std::get<1>(cut), std::get<2>(cut)};
    if (layout.size() != count || count != count_out)
        throw std::invalid_argument("the arrays must have outer * channels * inner elements");
    if (scales.size() != layout.channels || zeros.size() != layout.channels)
        throw std::invalid_argument("scale and zero_point must have one element per channel");
    for (std::size_t c = 0; c < layout.channels; ++c) {
        const std::int32_t zero = zeros.data()[c];
        if (!wide && (zero < -(1 << 20) || zero > 1 << 20))
            throw std::invalid_argument("a zero point of 8- and 16-bit codes must be within 2**20");
    }
    return layout;
}

template <typename Code>
void quantize(Input<float> x, Cut cut, Scales scales, Zeros zeros, std::int32_t low, std::int32_t high,
              InOut<Code> codes) {
    const auto layout = checked(cut, x.size(), codes.size(), scales, zeros, sizeof(Code) > 2);
    nb::gil_scoped_release unlocked;
    halfeven::quantize(x.data(), layout, scales.data(), zeros.data(), {low, high}, codes.data());
}

template <typename Code>
void dequantize(Input<Code> codes, Cut cut, Scales scales, Zeros zeros, InOut<float> values) {
    const auto layout = checked(cut, codes.size(), values.size(), scales, zeros, sizeof(Code) > 2);
    nb::gil_scoped_release unlocked;
    halfeven::dequantize(codes.data(), layout, scales.data(), zeros.data(), values.data());
}

void fake_quantize(Input<float> x, Cut cut, Scales scales, Zeros zeros, std::int32_t low, std::int32_t high,
                   InOut<float> values) {
    const bool wide = static_cast<std::int64_t>(high) - low > 65535;
    const auto layout = checked(cut, x.size(), values.size(), scales, zeros, wide);
    nb::gil_scoped_release unlocked;
    halfeven::fake_quantize(x.data(), layout, scales.data(), zeros.data(), {low, high}, values.data());
}

void lsq_backward(Input<float> x, Input<float> grad, Cut cut, Scales scales, Zeros zeros, std::int32_t low,
                  std::int32_t high, InOut<float> grad_x, InOut<float> grad_scale, InOut<float> grad_zero_point) {
    const auto layout = checked(cut, x.size(), grad_x.size(), scales, zeros, false);
    if (grad.size() != x.size() || grad_scale.size() != scales.size() || grad_zero_point.size() != scales.size())
        throw std::invalid_argument("lsq_backward: a gradient must have the size of what it belongs to");
    nb::gil_scoped_release unlocked;
    halfeven::lsq_backward(x.data(), grad.data(), layout, scales.data(), zeros.data(), {low, high},
                           {grad_x.data(), grad_scale.data(), grad_zero_point.data()});
}

template <typename Code>
void define_codes(nb::module_& m) {
    using namespace nb::literals;
    m.def("quantize", &quantize<Code>, "x"_a.noconvert(), "cut"_a, "scale"_a.noconvert(), "zero_point"_a.noconvert(),
          "low"_a, "high"_a, "codes"_a.noconvert());
    m.def("dequantize", &dequantize<Code>, "codes"_a.noconvert(), "cut"_a, "scale"_a.noconvert(),
          "zero_point"_a.noconvert(), "values"_a.noconvert());
}

// (groups, rows, columns) of `left`, `steps` and `codes`.
void round_columns(InOut<double> left, Input<double> steps, Input<double> factor, Cut shape, std::size_t start,
                   std::size_t stop, double low, double high, InOut<double> codes, InOut<double> errors) {
    const auto [groups, rows, columns] = shape;
    const std::size_t size = groups * rows * columns;
    if (left.size() != size || steps.size() != size || codes.size() != size ||
        factor.size() != groups * columns * columns || start > stop || stop > columns ||
        errors.size() != groups * rows * (stop - start))
        throw std::invalid_argument("round_columns: the arrays do not have the sizes that the shape asks for");
    const halfeven::Block block = {groups, rows, columns, start, stop, low, high};
    nb::gil_scoped_release unlocked;
    halfeven::round_columns(left.data(), steps.data(), factor.data(), block, codes.data(), errors.data());
}

// ---- layers on codes ---------------------------------------------------------------------------------------------

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
    for (std::size_t i = 0; i < out.size(); ++i) out.data()[i] = table.data()[256 * a.data()[i] + b.data()[i]];
}

template <typename In>
void define_layers(nb::module_& m, nb::class_<halfeven::PackedWeights>& weights) {
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

NB_MODULE(_native, m) {
    using namespace nb::literals;
    nb::set_leak_warnings(false);  // what caches hold at exit is no leak
    m.def("extrema", &extrema, "x"_a.noconvert(), "threads"_a);
    m.def("channel_summary", &channel_summary, "x"_a.noconvert(), "cut"_a, "block"_a, "stride"_a, "threads"_a);
    nb::class_<halfeven::Tally>(m, "Tally")
        .def(nb::init<std::size_t>(), "tensors"_a)
        .def("take", &tally_take, "tensors"_a.noconvert(), "strides"_a, "lying"_a, "threads"_a)
        .def("found", &tally_found, "index"_a);
    m.def("round_columns", &round_columns, "left"_a.noconvert(), "steps"_a.noconvert(), "factor"_a.noconvert(), "shape"_a,
          "start"_a, "stop"_a, "low"_a, "high"_a, "codes"_a.noconvert(), "errors"_a.noconvert());
    m.def("histogram", &histogram, "x"_a.noconvert(), "stride"_a, "threads"_a);
    m.def("grid_errors", &grid_errors, "edges"_a.noconvert(), "weights"_a.noconvert(), "scale"_a.noconvert(),
          "low"_a.noconvert(), "high"_a.noconvert());
    define_codes<std::int8_t>(m);
    define_codes<std::uint8_t>(m);
    define_codes<std::int16_t>(m);
    define_codes<std::uint16_t>(m);
    define_codes<std::int32_t>(m);
    m.def("fake_quantize", &fake_quantize, "x"_a.noconvert(), "cut"_a, "scale"_a.noconvert(),
          "zero_point"_a.noconvert(), "low"_a, "high"_a, "values"_a.noconvert());
    m.def("lsq_backward", &lsq_backward, "x"_a.noconvert(), "grad"_a.noconvert(), "cut"_a, "scale"_a.noconvert(),
          "zero_point"_a.noconvert(), "low"_a, "high"_a, "grad_x"_a.noconvert(), "grad_scale"_a.noconvert(),
          "grad_zero_point"_a.noconvert());
    define_bits(m);
    define_clamped(m);
    nb::class_<halfeven::PackedWeights> weights(m, "PackedWeights");
    define_layers<std::int8_t>(m, weights);
    define_layers<std::uint8_t>(m, weights);
    define_requantize<std::int8_t>(m);
    define_requantize<std::uint8_t>(m);
    define_requantize<std::int16_t>(m);
    m.def("gemm_paired", &gemm_paired, "a"_a.noconvert(), "b"_a.noconvert(), "shape"_a, "acc"_a.noconvert());
    m.def("look_up_pairs", &look_up_pairs, "a"_a.noconvert(), "b"_a.noconvert(), "table"_a.noconvert(),
          "out"_a.noconvert());
}
