// The Python module `halfeven.numerics._native`: checks shapes, frees the interpreter lock, calls a header.
// `numerics/native.py` is its only user; `numerics/_native.pyi` states its types.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <stdexcept>
#include <utility>
#include <vector>

#include "halfeven/extrema.hpp"
#include "halfeven/histogram.hpp"
#include "halfeven/search.hpp"

namespace nb = nanobind;

namespace {

template <typename T>
using Input = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
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

nb::tuple histogram(Input<float> x, std::size_t stride, int threads) {
    if (stride == 0) throw std::invalid_argument("histogram: stride must be at least 1");
    halfeven::Histogram h;
    {
        nb::gil_scoped_release unlocked;
        h = halfeven::histogram(x.data(), x.size(), stride, threads);
    }
    const halfeven::Extrema& e = h.extrema;
    return nb::make_tuple(nb::make_tuple(e.low, e.high, e.nans, e.infs), h.zeros, as_array(std::move(h.counts)));
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

}  // namespace

NB_MODULE(_native, m) {
    using namespace nb::literals;
    m.def("extrema", &extrema, "x"_a.noconvert(), "threads"_a);
    m.def("histogram", &histogram, "x"_a.noconvert(), "stride"_a, "threads"_a);
    m.def("grid_errors", &grid_errors, "edges"_a.noconvert(), "weights"_a.noconvert(), "scale"_a.noconvert(),
          "low"_a.noconvert(), "high"_a.noconvert());
}
