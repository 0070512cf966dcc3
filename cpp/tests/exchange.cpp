// What the headers compute of arrays that another program wrote, so that the two can be compared over millions of them.
//
//     exchange REQUESTS ANSWERS
//
// REQUESTS holds one request after another: words of 64 bits, the first of which names the operation, then arrays.
// ANSWERS gets their results. All is in the machine's byte order, without gaps. Rules, flavours and bit orders are
// numbered as the headers declare them; `code` is a type of codes, 8 or 16 bits, negative if signed.
//
//     operation      words                                         arrays                   answer
//     0 round        rule, bits of a float, n                      n floats                 n floats
//     1 stochastic   bits of a float, n                            n floats, n doubles      n floats
//     2 rescale      flavour, rule, n                              n doubles                n {valid, mantissa, shift}
//     3 requantize   flavour, rule, zero point, low, high, code,   channels doubles,        codes
//                    outer, channels, inner                        accumulators
//     4 pack         bits, order, code, n                          n codes                  bytes
//     5 unpack       bits, order, code, n                          bytes                    n codes
//     6 gemm         types, za, RowPer, given, m, n, k             n zb, n biases, a, b     acc, acc, fits
//     7 conv         types, zi, given, batch, channels in, out,    zw, biases, in, weight   acc, acc, fits
//                    groups, six of y, six of x
//
// With the code 0, requantize takes accumulators of 64 bits one by one and gives codes of 32; else accumulators have 32
// bits and the kernel for arrays runs. `types` are those of the two factors: 0 int8 int8, 1 uint8 int8, 2 uint8 uint8,
// 3 int16 int8. Unless `given` is 1, zero points of weights and biases are null and not sent. gemm and conv give what
// the kernel says, what the reference says, and whether all sums fit in 32 bits. The six of an axis are Window's.
// Mantissas, shifts and the answers to yes or no have 32 bits.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "halfeven/conv.hpp"
#include "halfeven/gemm.hpp"
#include "halfeven/pack.hpp"
#include "halfeven/requantize.hpp"
#include "halfeven/rounding.hpp"

namespace {

using halfeven::Requant;
using halfeven::Rounding;
using std::size_t;

[[noreturn]] void fail(const char* what) {
    std::fprintf(stderr, "exchange: %s\n", what);
    std::exit(2);
}

struct Exchange {
    std::FILE* requests;
    std::FILE* answers;

    template <typename T>
    std::vector<T> array(size_t count) {
        if (count > (size_t{1} << 28)) fail("an array of more than 2^28 elements is asked for");
        std::vector<T> found(count);
        if (count && std::fread(found.data(), sizeof(T), count, requests) != count) fail("the requests end too early");
        return found;
    }

    std::int64_t word() { return array<std::int64_t>(1)[0]; }
    std::int32_t number() { return static_cast<std::int32_t>(word()); }
    size_t size() { return static_cast<size_t>(word()); }

    template <typename Enum>
    Enum one_of() {
        return static_cast<Enum>(word());
    }

    bool next(std::int64_t& operation) { return std::fread(&operation, sizeof operation, 1, requests) == 1; }

    template <typename T>
    void answer(const std::vector<T>& found) {
        const size_t count = found.size();
        if (count && std::fwrite(found.data(), sizeof(T), count, answers) != count) fail("a file cannot be written");
    }
};

template <typename Float>
void answer_round(Exchange& with, Rounding rule, size_t n) {
    auto x = with.array<Float>(n);
    for (Float& one : x) one = halfeven::rounded(one, rule);
    with.answer(x);
}

template <typename Float>
void answer_stochastic(Exchange& with, size_t n) {
    auto x = with.array<Float>(n);
    const auto uniform = with.array<double>(n);
    for (size_t i = 0; i < n; ++i) x[i] = halfeven::stochastic(x[i], uniform[i]);
    with.answer(x);
}

void round_floats(Exchange& with) {
    const auto rule = with.one_of<Rounding>();
    const bool wide = with.word() == 64;
    const size_t n = with.size();
    wide ? answer_round<double>(with, rule, n) : answer_round<float>(with, rule, n);
}

void round_at_random(Exchange& with) {
    const bool wide = with.word() == 64;
    const size_t n = with.size();
    wide ? answer_stochastic<double>(with, n) : answer_stochastic<float>(with, n);
}

void rescale(Exchange& with) {
    const auto flavour = with.one_of<Requant>();
    const auto rule = with.one_of<Rounding>();
    std::vector<std::int32_t> found;
    for (const double real : with.array<double>(with.size())) {
        const halfeven::Rescale by = halfeven::rescale_of(real, flavour, rule);
        for (const std::int32_t part : {std::int32_t{by.valid}, by.mantissa, by.shift}) found.push_back(part);
    }
    with.answer(found);
}

struct Requantization {
    std::int32_t zero_point;
    halfeven::CodeRange range;
    halfeven::Layout layout;
    std::vector<halfeven::Rescale> by;
};

void answer_one_by_one(Exchange& with, const Requantization& how) {
    const auto acc = with.array<std::int64_t>(how.layout.size());
    std::vector<std::int32_t> codes(acc.size());
    for (size_t i = 0; i < acc.size(); ++i)
        codes[i] = halfeven::requantize(acc[i], how.by[how.layout.channel_of(i)], how.zero_point, how.range);
    with.answer(codes);
}

template <typename Code>
void answer_codes(Exchange& with, const Requantization& how) {
    const auto acc = with.array<std::int32_t>(how.layout.size());
    std::vector<Code> codes(acc.size());
    halfeven::requantize(acc.data(), how.layout, how.by.data(), how.zero_point, how.range, codes.data());
    with.answer(codes);
}

void requantize(Exchange& with) {
    const auto flavour = with.one_of<Requant>();
    const auto rule = with.one_of<Rounding>();
    Requantization how = {};
    how.zero_point = with.number();
    how.range.low = with.number();
    how.range.high = with.number();
    const std::int64_t code = with.word();
    how.layout.outer = with.size();
    how.layout.channels = with.size();
    how.layout.inner = with.size();
    for (const double real : with.array<double>(how.layout.channels)) {
        how.by.push_back(halfeven::rescale_of(real, flavour, rule));
        if (!how.by.back().valid) fail("a multiplier that the flavour cannot express");
    }
    switch (code) {
        case 0: return answer_one_by_one(with, how);
        case -8: return answer_codes<std::int8_t>(with, how);
        case 8: return answer_codes<std::uint8_t>(with, how);
        case -16: return answer_codes<std::int16_t>(with, how);
        default: fail("no such type of codes");
    }
}

struct Packing {
    int bits;
    halfeven::BitOrder order;
    bool is_signed;
    size_t count;
};

Packing packing(Exchange& with) {
    const int bits = with.number();
    const auto order = with.one_of<halfeven::BitOrder>();
    const bool is_signed = with.word() < 0;
    return {bits, order, is_signed, with.size()};
}

template <typename Code>
void answer_pack(Exchange& with, Packing how) {
    const auto codes = with.array<Code>(how.count);
    std::vector<std::uint8_t> bytes(halfeven::packed_size(how.count, how.bits));
    halfeven::pack(codes.data(), how.count, how.bits, how.order, bytes.data());
    with.answer(bytes);
}

template <typename Code>
void answer_unpack(Exchange& with, Packing how) {
    const auto bytes = with.array<std::uint8_t>(halfeven::packed_size(how.count, how.bits));
    std::vector<Code> codes(how.count);
    halfeven::unpack(bytes.data(), how.count, how.bits, how.order, codes.data());
    with.answer(codes);
}

void pack(Exchange& with) {
    const Packing how = packing(with);
    how.is_signed ? answer_pack<std::int8_t>(with, how) : answer_pack<std::uint8_t>(with, how);
}

void unpack(Exchange& with) {
    const Packing how = packing(with);
    how.is_signed ? answer_unpack<std::int8_t>(with, how) : answer_unpack<std::uint8_t>(with, how);
}

// Zero points and biases of the rows of weights, as the kernels take them: null unless given.
struct Offsets {
    bool given;
    std::vector<std::int32_t> zeros, bias;

    Offsets(Exchange& with, bool are_given, size_t rows)
        : given(are_given), zeros(with.array<std::int32_t>(are_given ? rows : 0)),
          bias(with.array<std::int32_t>(are_given ? rows : 0)) {}

    const std::int32_t* zero_points() const { return given ? zeros.data() : nullptr; }
    const std::int32_t* biases() const { return given ? bias.data() : nullptr; }
};

using Sums = std::vector<std::int32_t>;

void answer_sums(Exchange& with, const Sums& kernel, const Sums& plain, bool fits) {
    with.answer(kernel);
    with.answer(plain);
    with.answer(Sums{fits});
}

struct Gemm {
    std::int32_t za;
    halfeven::RowPer row;
    bool given;
    halfeven::GemmShape shape;

    template <typename A, typename B>
    void answer(Exchange& with) const {
        const Offsets own(with, given, shape.n);
        const auto a = with.array<A>(shape.m * shape.k);
        const auto b = with.array<B>(shape.n * shape.k);
        const halfeven::GemmOffsets offsets = {za, own.zero_points(), own.biases()};
        Sums acc(shape.m * shape.n), plain(acc.size());
        halfeven::gemm(a.data(), b.data(), shape, offsets, acc.data(), row);
        const bool fits = halfeven::reference::gemm(a.data(), b.data(), shape, offsets, plain.data(), row);
        answer_sums(with, acc, plain, fits);
    }
};

struct Conv {
    std::int32_t zi;
    bool given;
    halfeven::ConvShape shape;

    template <typename In, typename Weight>
    void answer(Exchange& with) const {
        const Offsets own(with, given, shape.out_channels);
        const auto in = with.array<In>(shape.batch * shape.in_channels * shape.y.in * shape.x.in);
        const auto weight = with.array<Weight>(shape.out_channels * shape.patch());
        const halfeven::ConvOffsets offsets = {zi, own.zero_points(), own.biases()};
        Sums acc(shape.batch * shape.out_channels * shape.positions()), plain(acc.size());
        std::vector<In> workspace(halfeven::conv_workspace(shape));
        halfeven::conv(in.data(), weight.data(), shape, offsets, workspace.data(), acc.data());
        const bool fits = halfeven::reference::conv(in.data(), weight.data(), shape, offsets, plain.data());
        answer_sums(with, acc, plain, fits);
    }
};

template <typename Operation>
void answer_for_types(Exchange& with, std::int64_t types, const Operation& operation) {
    switch (types) {
        case 0: return operation.template answer<std::int8_t, std::int8_t>(with);
        case 1: return operation.template answer<std::uint8_t, std::int8_t>(with);
        case 2: return operation.template answer<std::uint8_t, std::uint8_t>(with);
        case 3: return operation.template answer<std::int16_t, std::int8_t>(with);
        default: fail("no such pair of types");
    }
}

void gemm(Exchange& with) {
    const std::int64_t types = with.word();
    Gemm how = {};
    how.za = with.number();
    how.row = with.one_of<halfeven::RowPer>();
    how.given = with.word() == 1;
    for (size_t* size : {&how.shape.m, &how.shape.n, &how.shape.k}) *size = with.size();
    answer_for_types(with, types, how);
}

void conv(Exchange& with) {
    const std::int64_t types = with.word();
    Conv how = {};
    how.zi = with.number();
    how.given = with.word() == 1;
    halfeven::ConvShape& shape = how.shape;
    for (size_t* size : {&shape.batch, &shape.in_channels, &shape.out_channels, &shape.groups}) *size = with.size();
    for (halfeven::Window* axis : {&shape.y, &shape.x})
        for (size_t* size :
             {&axis->in, &axis->kernel, &axis->stride, &axis->dilation, &axis->pad_begin, &axis->pad_end})
            *size = with.size();
    answer_for_types(with, types, how);
}

constexpr void (*OPERATIONS[])(Exchange&) = {round_floats, round_at_random, rescale, requantize,
                                             pack,         unpack,          gemm,    conv};

}  // namespace

int main(int count, char** arguments) {
    if (count != 3) fail("two files are needed: REQUESTS ANSWERS");
    Exchange with = {std::fopen(arguments[1], "rb"), std::fopen(arguments[2], "wb")};
    if (!with.requests || !with.answers) fail("a file cannot be opened");
    std::int64_t operation = 0;
    while (with.next(operation)) {
        if (operation < 0 || operation >= 8) fail("no such operation");
        OPERATIONS[operation](with);
    }
    std::fclose(with.requests);
    return std::fclose(with.answers) == 0 ? 0 : 2;
}
