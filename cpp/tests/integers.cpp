// Integers: requantization, packing, matrix product and convolution, each fast kernel against its reference.
#include <cstdint>
#include <vector>

#include "check.hpp"
#include "halfeven/bits.hpp"
#include "halfeven/conv.hpp"
#include "halfeven/gemm.hpp"
#include "halfeven/pack.hpp"
#include "halfeven/requantize.hpp"

namespace {

using halfeven::CodeRange;
using halfeven::Requant;
using halfeven::Rescale;
using halfeven::Rounding;
using test::check;
using test::Random;
using test::same;
using test::SIZES;

constexpr Requant FLAVOURS[] = {
    Requant::DOUBLE_ROUNDING, Requant::NEON,          Requant::SINGLE_ROUNDING, Requant::FLOAT64_HALF_AWAY,
    Requant::FLOAT32_INSIDE,  Requant::FLOAT32_FUSED, Requant::RNDNU,           Requant::RNDNU16,
    Requant::QNNPACK,         Requant::Q8_8,          Requant::SHIFT,           Requant::FLOAT32_HALF_EVEN};

std::vector<std::int32_t> accumulators(std::size_t size, Random& random) {
    std::vector<std::int32_t> acc = test::integers<std::int32_t>(size, random);
    for (std::size_t i = 0; i < size; ++i) acc[i] >>= random() % 31;  // all magnitudes
    if (size > 3) acc[0] = INT32_MIN, acc[1] = INT32_MAX, acc[2] = 0;
    return acc;
}

template <typename Code>
void test_requantize(std::size_t size, Requant flavour, CodeRange range, Random& random) {
    const std::vector<std::int32_t> acc = accumulators(size, random);
    std::vector<Rescale> by;
    for (double real : {0.25, 0.0078125, 0.3337, 0.00123, 0.75})
        by.push_back(halfeven::rescale_of(real, flavour, Rounding::HALF_EVEN));
    for (Rescale& one : by)
        if (!one.valid) one = by[0];
    check(by[0].valid, "rescale_of", "0.25", size);
    const halfeven::Layout layout = {1, by.size(), size / by.size()};
    const std::int32_t zero = static_cast<std::int32_t>(random() % 11) + range.low + 3;
    std::vector<Code> codes(layout.size()), want(layout.size());
    for (std::size_t e = 0; e < layout.size(); ++e)
        want[e] = static_cast<Code>(halfeven::requantize(acc[e], by[layout.channel_of(e)], zero, range));
    halfeven::requantize(acc.data(), layout, by.data(), zero, range, codes.data());
    check(same(codes, want), "requantize", "flavour", static_cast<std::size_t>(flavour));
}

// The primitives against the exact shift, which knows every rule.
void test_primitives(Random& random) {
    for (const std::int32_t x : accumulators(20000, random)) {
        const int n = static_cast<int>(random() % 32);
        check(halfeven::shift_half_up(x, n) == halfeven::rounding_shift(x, n, Rounding::HALF_UP), "shift", "half up", 1);
        check(halfeven::shift_half_away(x, n) == halfeven::rounding_shift(x, n, Rounding::HALF_AWAY), "shift", "away", 1);
        const std::int32_t b = static_cast<std::int32_t>(random());
        const std::int64_t high = halfeven::rounding_shift(static_cast<std::int64_t>(x) * b, 31, Rounding::HALF_UP);
        check(halfeven::high_multiply(x, b) == halfeven::saturate(high, 32), "high_multiply", "any", 1);
        const auto c = static_cast<std::int16_t>(x), d = static_cast<std::int16_t>(b);
        const std::int64_t half = halfeven::rounding_shift(static_cast<std::int64_t>(c) * d, 15, Rounding::HALF_UP);
        check(halfeven::multiply_high_scaled(c, d) == static_cast<std::int16_t>(half), "multiply_high_scaled", "any", 1);
    }
    check(halfeven::high_multiply(INT32_MIN, INT32_MIN) == INT32_MAX, "high_multiply", "least squared", 1);
    check(halfeven::multiply_high_scaled(INT16_MIN, INT16_MIN) == INT16_MIN, "multiply_high_scaled", "wraps", 1);
}

template <typename Code>
void test_packing(std::size_t size, int bits, halfeven::BitOrder order, Random& random) {
    std::vector<Code> codes(size), back(size), plain(size);
    for (Code& one : codes) one = halfeven::code_of<Code>(random() & ((1u << bits) - 1), bits);
    std::vector<std::uint8_t> bytes(halfeven::packed_size(size, bits), 0xaa), want(bytes.size());
    halfeven::pack(codes.data(), size, bits, order, bytes.data());
    halfeven::reference::pack(codes.data(), size, bits, order, want.data());
    check(same(bytes, want), "pack", "bits", size);
    halfeven::unpack(bytes.data(), size, bits, order, back.data());
    halfeven::reference::unpack(bytes.data(), size, bits, order, plain.data());
    check(same(back, codes) && same(plain, codes), "unpack", "bits", size);
}

template <typename A, typename B>
void test_gemm(halfeven::GemmShape shape, bool plain, Random& random) {
    const std::vector<A> a = test::integers<A>(shape.m * shape.k, random);
    const std::vector<B> b = test::integers<B>(shape.n * shape.k, random);
    const std::vector<std::int32_t> bias = test::integers<std::int32_t>(shape.n, random);  // some sums wrap
    std::vector<std::int32_t> zeros(shape.n), acc(shape.m * shape.n), want(acc.size());
    for (std::int32_t& zero : zeros) zero = static_cast<std::int32_t>(random() % 256) - 128;
    halfeven::GemmOffsets offsets = {77, zeros.data(), bias.data()};
    if (plain) offsets = {0, nullptr, nullptr};
    for (halfeven::RowPer row : {halfeven::RowPer::M, halfeven::RowPer::N}) {
        halfeven::gemm(a.data(), b.data(), shape, offsets, acc.data(), row);
        halfeven::reference::gemm(a.data(), b.data(), shape, offsets, want.data(), row);
        check(same(acc, want), "gemm", "any codes", shape.m * shape.n * shape.k);
    }
}

void test_gemms(Random& random) {
    for (std::size_t m : {0, 1, 4, 7})
        for (std::size_t n : {0, 1, 4, 9})
            for (std::size_t k : {0, 1, 3, 15, 16, 17, 33, 64, 1000})
                for (bool plain : {false, true}) {
                    test_gemm<std::int8_t, std::int8_t>({m, n, k}, plain, random);
                    test_gemm<std::uint8_t, std::int8_t>({m, n, k}, plain, random);
                    test_gemm<std::uint8_t, std::uint8_t>({m, n, k}, plain, random);
                    test_gemm<std::int16_t, std::int8_t>({m, n, k}, plain, random);
                }
    const std::vector<std::int8_t> low(200000, -128);
    std::int32_t acc;
    check(!halfeven::reference::gemm(low.data(), low.data(), {1, 1, low.size()}, {0, nullptr, nullptr}, &acc),
          "the reference says that a sum wraps", "least codes", low.size());
}

template <typename In>
void test_conv(halfeven::ConvShape shape, Random& random) {
    const std::size_t in_size = shape.batch * shape.in_channels * shape.y.in * shape.x.in;
    const std::vector<In> in = test::integers<In>(in_size, random);
    const std::vector<std::int8_t> weight = test::integers<std::int8_t>(shape.out_channels * shape.patch(), random);
    const std::vector<std::int32_t> bias = accumulators(shape.out_channels, random);
    std::vector<std::int32_t> zeros(shape.out_channels, -3);
    std::vector<std::int32_t> acc(shape.batch * shape.out_channels * shape.positions()), want(acc.size());
    std::vector<In> workspace(halfeven::conv_workspace(shape));
    for (const halfeven::ConvOffsets offsets :
         {halfeven::ConvOffsets{5, zeros.data(), bias.data()}, halfeven::ConvOffsets{0, nullptr, nullptr}}) {
        halfeven::conv(in.data(), weight.data(), shape, offsets, workspace.data(), acc.data());
        halfeven::reference::conv(in.data(), weight.data(), shape, offsets, want.data());
        check(same(acc, want), "conv", "any codes", in_size);
    }
}

void test_convs(Random& random) {
    const halfeven::ConvShape shapes[] = {
        {2, 3, 8, 1, {9, 3, 1, 1, 1, 1}, {7, 3, 1, 1, 1, 1}},   {1, 4, 6, 2, {8, 3, 2, 1, 0, 1}, {9, 2, 3, 2, 2, 0}},
        {1, 6, 6, 6, {5, 3, 1, 2, 2, 2}, {5, 3, 1, 2, 2, 2}},   {1, 5, 3, 1, {4, 1, 1, 1, 0, 0}, {4, 1, 1, 1, 0, 0}},
        {1, 2, 4, 1, {1, 3, 1, 1, 1, 1}, {1, 1, 1, 1, 0, 0}},   {3, 16, 5, 1, {6, 5, 1, 1, 2, 2}, {6, 5, 1, 1, 2, 2}},
        {1, 2, 4, 1, {1, 3, 1, 1, 0, 0}, {4, 3, 1, 1, 1, 1}},  // the kernel does not fit: no output
    };
    for (const halfeven::ConvShape& shape : shapes) {
        test_conv<std::int8_t>(shape, random);
        test_conv<std::uint8_t>(shape, random);
    }
}

// ---- products on bits --------------------------------------------------------------------------------------------

using halfeven::BitCodes;

struct Bits {
    std::vector<int> codes;
    std::vector<std::uint64_t> positive, nonzero;
};

Bits bits(BitCodes kind, std::size_t rows, std::size_t length, Random& random) {
    const std::size_t words = (length + 63) / 64;
    Bits made = {std::vector<int>(rows * length), std::vector<std::uint64_t>(rows * words),
                 std::vector<std::uint64_t>(rows * words)};
    for (std::size_t i = 0; i < rows; ++i)
        for (std::size_t k = 0; k < length; ++k) {
            const int drawn = static_cast<int>(random() % 6);
            const int code = kind == BitCodes::SIGN ? 2 * (drawn % 2) - 1 : kind == BitCodes::UNIT ? drawn % 2 : drawn % 3 - 1;
            made.codes[i * length + k] = code;
            const std::uint64_t bit = std::uint64_t{1} << (k % 64);
            if (code > 0) made.positive[i * words + k / 64] |= bit;
            if (code != 0) made.nonzero[i * words + k / 64] |= bit;
        }
    return made;
}

void test_bits(BitCodes kind, std::size_t rows, std::size_t others, std::size_t length, Random& random) {
    const std::size_t words = (length + 63) / 64;
    const Bits a = bits(kind, rows, length, random), b = bits(kind, others, length, random);
    std::vector<std::int64_t> got(rows * others), want(rows * others);
    for (std::size_t i = 0; i < rows; ++i)
        for (std::size_t j = 0; j < others; ++j)
            for (std::size_t k = 0; k < length; ++k) want[i * others + j] += a.codes[i * length + k] * b.codes[j * length + k];
    halfeven::bit_product({a.positive.data(), a.nonzero.data(), rows}, {b.positive.data(), b.nonzero.data(), others}, words,
                          kind, static_cast<std::int64_t>(length), got.data());
    check(same(got, want), "bit_product", "any codes", length);
}

// Each instruction set that there is, beside counting one word after the other.
template <BitCodes KIND>
void test_counts(std::size_t words, Random& random) {
    std::vector<std::uint64_t> a(2 * words), b(8 * words);
    for (auto* drawn : {&a, &b})
        for (std::uint64_t& word : *drawn) word = static_cast<std::uint64_t>(random()) << 32 | random();
    std::vector<halfeven::FourCounts> kernels = {halfeven::four_plain<KIND>};
#if defined(HALFEVEN_COUNTS_X86)
    if (__builtin_cpu_supports("popcnt")) kernels.push_back(halfeven::four_popcnt<KIND>);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vpopcntdq"))
        kernels.push_back(halfeven::four_vector<KIND>);
#endif
    const std::uint64_t *an = a.data() + words, *bn = b.data() + 4 * words;
    for (const halfeven::FourCounts kernel : kernels) {
        std::vector<std::int64_t> got(4), want(4);
        kernel(a.data(), an, b.data(), bn, words, words, got.data());
        for (std::size_t j = 0; j < 4; ++j)
            want[j] = halfeven::reference::counted<KIND>(a.data(), an, b.data() + j * words, bn + j * words, words);
        check(same(got, want), "counts of four rows", "any words", words);
    }
}

void test_bits(Random& random) {
    for (const BitCodes kind : {BitCodes::SIGN, BitCodes::UNIT, BitCodes::TERNARY})
        for (const std::size_t length : SIZES) test_bits(kind, 3, length < 1000 ? 11 : 6, length, random);
    test_bits(BitCodes::SIGN, 2, 33000, 65, random);  // more rows than a turn takes
    for (const std::size_t words : {0, 1, 7, 8, 9, 16, 100}) {
        test_counts<BitCodes::SIGN>(words, random);
        test_counts<BitCodes::UNIT>(words, random);
        test_counts<BitCodes::TERNARY>(words, random);
    }
}

}  // namespace

int main() {
    Random random(2026);
    test_primitives(random);
    for (const Requant flavour : FLAVOURS) {
        for (const std::size_t size : SIZES) {
            test_requantize<std::int8_t>(size, flavour, {-128, 127}, random);
            test_requantize<std::uint8_t>(size, flavour, {0, 255}, random);
            test_requantize<std::int16_t>(size, flavour, {-32768, 32767}, random);
        }
    }
    for (const std::size_t size : SIZES)
        for (int bits = 1; bits <= 8; ++bits)
            for (auto order : {halfeven::BitOrder::LOW, halfeven::BitOrder::HIGH}) {
                test_packing<std::int8_t>(size, bits, order, random);
                test_packing<std::uint8_t>(size, bits, order, random);
            }
    test_gemms(random);
    test_convs(random);
    test_bits(random);
    return test::finish();
}
