// The part of the Python module for training: `halfeven/clamped.hpp`.
#include "halfeven/clamped.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <tuple>

#include "arrays.hpp"

namespace {

using Codes = std::tuple<std::int32_t, std::int32_t>;
using Ends = std::tuple<float, float>;

halfeven::CodeRange checked(Codes codes, std::int32_t zero, std::size_t count, std::size_t count_out) {
    const auto [low, high] = codes;
    if (count != count_out) throw std::invalid_argument("the arrays must have one size");
    if (static_cast<std::int64_t>(high) - low > 65535) throw std::invalid_argument("codes of at most 16 bits are wanted");
    if (zero < -(1 << 20) || zero > 1 << 20) throw std::invalid_argument("a zero point must be within 2**20");
    return {low, high};
}

void fake_quantize(Input<float> x, float scale, std::int32_t zero, Codes codes, Ends clamp, int threads,
                   InOut<float> values) {
    const auto range = checked(codes, zero, x.size(), values.size());
    nb::gil_scoped_release unlocked;
    halfeven::fake_quantize_clamped(x.data(), x.size(), scale, zero, range, {std::get<0>(clamp), std::get<1>(clamp)},
                                    threads, values.data());
}

// The gradients of scale and zero point, zeros unless `sums`; that of x goes to `grad_x`.
std::tuple<float, float> lsq_backward(Input<float> x, Input<float> grad, float scale, std::int32_t zero, Codes codes,
                                      Ends clamp, bool sums, int threads, InOut<float> grad_x) {
    const auto range = checked(codes, zero, x.size(), grad_x.size());
    if (grad.size() != x.size()) throw std::invalid_argument("the arrays must have one size");
    float by_scale = 0.0f, by_zero = 0.0f;
    nb::gil_scoped_release unlocked;
    halfeven::lsq_backward_clamped(x.data(), grad.data(), x.size(), scale, zero, range,
                                   {std::get<0>(clamp), std::get<1>(clamp)}, threads,
                                   {grad_x.data(), sums ? &by_scale : nullptr, &by_zero});
    return {by_scale, by_zero};
}

}  // namespace

void define_clamped(nb::module_& m) {
    using namespace nb::literals;
    m.def("fake_quantize_clamped", &fake_quantize, "x"_a.noconvert(), "scale"_a, "zero_point"_a, "codes"_a, "clamp"_a,
          "threads"_a, "values"_a.noconvert());
    m.def("lsq_backward_clamped", &lsq_backward, "x"_a.noconvert(), "grad"_a.noconvert(), "scale"_a, "zero_point"_a,
          "codes"_a, "clamp"_a, "sums"_a, "threads"_a, "grad_x"_a.noconvert());
}
