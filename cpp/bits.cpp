// The part of the Python module for one- and two-bit codes: `halfeven/bits.hpp`.
#include "halfeven/bits.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <tuple>

namespace nb = nanobind;

namespace {

using Words = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Sums = nb::ndarray<std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// `shape`: rows of a, rows of b, codes in a row. `codes`: the place in BitCodes.
void bit_product(Words a, Words a_nonzero, Words b, Words b_nonzero, std::tuple<std::size_t, std::size_t, std::size_t> shape,
                 int codes, Sums out) {
    const auto [m, n, length] = shape;
    const std::size_t words = length / 64 + (length % 64 != 0);
    if (a.size() != m * words || a_nonzero.size() != a.size() || b.size() != n * words || b_nonzero.size() != b.size() ||
        out.size() != m * n)
        throw std::invalid_argument("bit_product: the arrays do not have the sizes that the shape asks for");
    if (codes < 0 || codes > static_cast<int>(halfeven::BitCodes::TERNARY))
        throw std::invalid_argument("bit_product: there are no such codes");
    nb::gil_scoped_release unlocked;
    halfeven::bit_product({a.data(), a_nonzero.data(), m}, {b.data(), b_nonzero.data(), n}, words,
                          static_cast<halfeven::BitCodes>(codes), static_cast<std::int64_t>(length), out.data());
}

}  // namespace

void define_bits(nb::module_& m) {
    using namespace nb::literals;
    m.def("bit_product", &bit_product, "a"_a.noconvert(), "a_nonzero"_a.noconvert(), "b"_a.noconvert(),
          "b_nonzero"_a.noconvert(), "shape"_a, "codes"_a, "out"_a.noconvert());
}
