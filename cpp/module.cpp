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

#include "arrays.hpp"
#include "halfeven/crew.hpp"
#include "halfeven/extrema.hpp"
#include "halfeven/feedback.hpp"
#include "halfeven/histogram.hpp"
#include "halfeven/lsq.hpp"
#include "halfeven/quantize.hpp"
#include "halfeven/search.hpp"
#include "halfeven/tally.hpp"

void define_bits(nb::module_& m);     // bits.cpp
void define_clamped(nb::module_& m);  // clamped.cpp
void define_layers(nb::module_& m);   // layers.cpp

namespace {

template <typename T>
using Output = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

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

// (number of the tensor, values, stride, layout)
using Taken = std::tuple<std::size_t, AnyShape<float>, std::size_t, Lying>;

Output<double> tally_take(halfeven::Tally& tally, const std::vector<Taken>& taken, int threads) {
    std::vector<double> seen(4 * taken.size());
    std::vector<halfeven::Planes> in;
    for (const auto& [index, x, stride, lying] : taken) {
        if (index >= tally.size()) throw std::out_of_range("Tally.take: there is no such tensor");
        if (stride < 1) throw std::invalid_argument("Tally.take: a stride must be at least 1");
        in.push_back(planes(lying, x.size()));
    }
    {
        nb::gil_scoped_release unlocked;
        halfeven::Crew::get().run(threads, taken.size(), [&](std::size_t i) {
            const auto& [index, x, stride, lying] = taken[i];
            const halfeven::Extrema e = tally.take(index, x.data(), x.size(), stride, in[i].plane ? &in[i] : nullptr);
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

// What the kernels ask of scales and zero points.
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

}  // namespace

NB_MODULE(_native, m) {
    using namespace nb::literals;
    nb::set_leak_warnings(false);  // what caches hold at exit is no leak
    m.def("extrema", &extrema, "x"_a.noconvert(), "threads"_a);
    m.def("channel_summary", &channel_summary, "x"_a.noconvert(), "cut"_a, "block"_a, "stride"_a, "threads"_a);
    nb::class_<halfeven::Tally>(m, "Tally")
        .def(nb::init<std::size_t>(), "tensors"_a)
        .def("take", &tally_take, "taken"_a.noconvert(), "threads"_a)
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
    define_layers(m);
}
