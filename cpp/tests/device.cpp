// What firmware includes, as firmware includes it: C++11, no C++ library, no exceptions, no allocation. A few vectors of
// each header, known by hand, so that a board or an emulator can be tried with this file alone.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "halfeven/conv.hpp"
#include "halfeven/gemm.hpp"
#include "halfeven/lsq.hpp"
#include "halfeven/pack.hpp"
#include "halfeven/quantize.hpp"
#include "halfeven/requantize.hpp"
#include "halfeven/rounding.hpp"

namespace {

int failures = 0;

void check(bool passed, const char* what) {
    if (passed) return;
    ++failures;
    printf("FAILED: %s\n", what);
}

template <typename T>
bool same(const T* a, const T* b, size_t count) {
    return memcmp(a, b, count * sizeof(T)) == 0;
}

void test_rounding() {
    const float x[] = {-2.5f, -1.5f, -0.5f, 0.5f, 1.5f, 2.5f, 0.49999997f, 8388609.0f};
    const float even[] = {-2.0f, -2.0f, -0.0f, 0.0f, 2.0f, 2.0f, 0.0f, 8388609.0f};
    const float away[] = {-3.0f, -2.0f, -1.0f, 1.0f, 2.0f, 3.0f, 0.0f, 8388609.0f};
    for (int i = 0; i < 8; ++i) {
        const float e = halfeven::rounded(x[i], halfeven::Rounding::HALF_EVEN);
        check(same(&e, &even[i], 1), "half to even, signed zeros too");
        check(halfeven::rounded(x[i], halfeven::Rounding::HALF_AWAY) == away[i], "half away from zero");
    }
}

void test_quantize() {
    const float x[] = {-2.5f, -1.5f, -0.5f, 0.5f, 1.5f, 2.5f, 1e30f, -1e30f, NAN};
    const int8_t want[] = {-2, -2, 0, 0, 2, 2, 127, -128, -128};
    const int16_t want16[] = {-2, -2, 0, 0, 2, 2, 32767, -32768, -32768};
    const int32_t want32[] = {-2, -2, 0, 0, 2, 2, INT32_MAX, INT32_MIN, INT32_MIN};
    const float one = 1.0f;
    const int32_t zero = 0;
    int8_t codes[9];
    int16_t codes16[9];
    int32_t codes32[9];
    halfeven::quantize(x, {1, 1, 9}, &one, &zero, {-128, 127}, codes);
    halfeven::quantize(x, {1, 1, 9}, &one, &zero, {-32768, 32767}, codes16);
    halfeven::quantize(x, {1, 1, 9}, &one, &zero, {INT32_MIN, INT32_MAX}, codes32);
    check(same(codes, want, 9) && same(codes16, want16, 9) && same(codes32, want32, 9), "quantize");
}

void test_channels() {
    const float x[] = {1.0f, 1.0f, -3.0f, 0.25f}, scales[] = {0.5f, 0.25f}, want[] = {1.0f, 1.0f, -3.0f, 0.25f};
    const int32_t zeros[] = {1, -1};
    const int8_t codes_want[] = {3, 3, -5, 0};
    int8_t codes[4];
    float values[4], faked[4];
    halfeven::quantize(x, {2, 2, 1}, scales, zeros, {-128, 127}, codes);
    halfeven::dequantize(codes, {2, 2, 1}, scales, zeros, values);
    halfeven::fake_quantize(x, {2, 2, 1}, scales, zeros, {-128, 127}, faked);
    check(same(codes, codes_want, 4) && same(values, want, 4) && same(faked, want, 4), "per channel");
    const int32_t bias[] = {100, -7};
    halfeven::dequantize(bias, {1, 1, 2}, scales, zeros, values);
    check(values[0] == 49.5f && values[1] == -4.0f, "dequantize of int32");
}

void test_requantize() {
    using halfeven::Requant;
    const halfeven::CodeRange range = {-128, 127};
    const Requant flavours[] = {Requant::DOUBLE_ROUNDING,   Requant::NEON,  Requant::SINGLE_ROUNDING,
                                Requant::FLOAT32_HALF_EVEN, Requant::RNDNU, Requant::FLOAT64_HALF_AWAY};
    const int32_t minus_tie[] = {-3, -2, -2, -2, -2, -3};  // -10 / 4 = -2.5
    const int32_t plus_tie[] = {3, 3, 3, 2, 3, 3};
    for (int i = 0; i < 6; ++i) {
        const halfeven::Rescale by = halfeven::rescale_of(0.25, flavours[i]);
        check(by.valid && halfeven::requantize(-10, by, 0, range) == minus_tie[i], "requantize -2.5");
        check(halfeven::requantize(10, by, 0, range) == plus_tie[i], "requantize 2.5");
        check(halfeven::requantize(100000, by, 5, range) == 127, "requantize saturates");
    }
    check(!halfeven::rescale_of(0.3, Requant::SHIFT).valid, "0.3 is no shift");
}

void test_products() {
    const int8_t a[] = {1, -2, 3, 4, 5, -6}, b[] = {1, 0, -1, 2, 2, 2};
    const int32_t bias[] = {10, 20};
    const int32_t rows[] = {10 - 2, 20 + 4, 10 + 10, 20 + 6};
    int32_t acc[4];
    halfeven::gemm(a, b, {2, 2, 3}, {0, nullptr, bias}, acc);
    check(same(acc, rows, 4), "gemm");
    // One image of 1 x 2 x 3 with the zero point 1, so 0 -3 2 and 3 4 -7; two kernels of 1 x 3, padded by one.
    const halfeven::ConvShape shape = {1, 1, 2, 1, {2, 1, 1, 1, 0, 0}, {3, 3, 1, 1, 1, 1}};
    const int32_t sums[] = {10 + 3, 10 - 2, 10 - 3, 10 - 4, 10 + 10, 10 + 4, 20 - 6, 20 - 2, 20 - 2, 20 + 14, 20, 20 - 6};
    int8_t workspace[18];
    int32_t out[12];
    halfeven::conv(a, b, shape, {1, nullptr, bias}, workspace, out);
    check(halfeven::conv_workspace(shape) == 18 && same(out, sums, 12), "conv");
}

void test_packing() {
    const int8_t codes[] = {-8, 7, -1, 3, 5};
    const uint8_t want[] = {0x78, 0x3f, 0x05};
    uint8_t bytes[3];
    int8_t back[5];
    halfeven::pack(codes, 5, 4, halfeven::BitOrder::LOW, bytes);
    halfeven::unpack(bytes, 5, 4, halfeven::BitOrder::LOW, back);
    check(same(bytes, want, 3) && same(back, codes, 5), "pack");
}

void test_gradients() {
    const float x[] = {0.3f, 100.0f, -100.0f}, g[] = {1.0f, 2.0f, 4.0f}, scale = 0.5f, by_x[] = {1.0f, 0.0f, 0.0f};
    const int32_t zero = 0;
    float grad_x[3], grad_scale, grad_zero;
    halfeven::lsq_backward(x, g, {1, 1, 3}, &scale, &zero, {-8, 7}, {grad_x, &grad_scale, &grad_zero});
    const float t = 1.0f - 0.3f / 0.5f;
    check(same(grad_x, by_x, 3) && grad_scale == static_cast<float>(t + 14.0 - 32.0) && grad_zero == -3.0f, "gradients");
}

}  // namespace

int main() {
    test_rounding();
    test_quantize();
    test_channels();
    test_requantize();
    test_products();
    test_packing();
    test_gradients();
    printf("%d failures\n", failures);
    return failures > 0;
}
