// The golden vectors shared with Python: the same numbers in, the same bits out.
//
//     golden ties.json requantize.json integer_ops.json
//
//     ties.json          {"rules": {rule: [[x, rounded], ...]}}, float32 as eight hexadecimal digits
//     requantize.json    {"cases": [{flavour, acc, multiplier, zero_point, low, high, codes}, ...]}, acc and codes lists,
//                        the multiplier a hexadecimal float
//     integer_ops.json   {"matmul": [{a, b, a_zero_point, b_zero_point, bias, acc}, ...], "conv2d": [...]}, where an array
//                        is {shape, codes}
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "check.hpp"
#include "halfeven/conv.hpp"
#include "halfeven/gemm.hpp"
#include "halfeven/quantize.hpp"
#include "halfeven/requantize.hpp"
#include "halfeven/rounding.hpp"
#include "json.hpp"

namespace {

using halfeven::Requant;
using halfeven::Rounding;

template <typename T>
struct Named {
    const char* name;
    T value;
};

constexpr Named<Rounding> RULES[] = {
    {"half_even", Rounding::HALF_EVEN}, {"half_up", Rounding::HALF_UP},     {"half_down", Rounding::HALF_DOWN},
    {"half_away", Rounding::HALF_AWAY}, {"half_zero", Rounding::HALF_ZERO}, {"half_dpu5", Rounding::HALF_DPU5},
    {"floor", Rounding::FLOOR},         {"ceil", Rounding::CEIL},           {"trunc", Rounding::TRUNC},
    {"sum_up", Rounding::SUM_UP},       {"sum_down", Rounding::SUM_DOWN},   {"sum_away", Rounding::SUM_AWAY},
    {"sum_zero", Rounding::SUM_ZERO},
};

constexpr Named<Requant> FLAVOURS[] = {
    {"double_rounding", Requant::DOUBLE_ROUNDING},
    {"neon", Requant::NEON},
    {"single_rounding", Requant::SINGLE_ROUNDING},
    {"int16x8", Requant::INT16X8},
    {"float64_half_away", Requant::FLOAT64_HALF_AWAY},
    {"float32_half_even", Requant::FLOAT32_HALF_EVEN},
    {"float32_inside", Requant::FLOAT32_INSIDE},
    {"float32_fused", Requant::FLOAT32_FUSED},
    {"rndnu", Requant::RNDNU},
    {"rndnu16", Requant::RNDNU16},
    {"qnnpack", Requant::QNNPACK},
    {"q8_8", Requant::Q8_8},
};

template <typename T, std::size_t N>
const T* named(const Named<T> (&table)[N], const std::string& name) {
    for (const Named<T>& one : table)
        if (name == one.name) return &one.value;
    return nullptr;
}

float float_from(const json::Value& hex) {
    return halfeven::float_of(static_cast<std::int32_t>(std::strtoul(hex.text.c_str(), nullptr, 16)));
}

double real_from(const json::Value& hex) { return std::strtod(hex.text.c_str(), nullptr); }

bool same_float(float a, float b) { return (a != a && b != b) || std::memcmp(&a, &b, sizeof a) == 0; }

// The rule as it is, and through quantize with scale 1, where the rounded number is a code.
void check_pair(const char* name, Rounding rule, float x, float want) {
    test::check(same_float(halfeven::rounded(x, rule), want), name, "ties.json", 1);
    if (!(want > -32768.0f && want < 32767.0f)) return;
    const auto code = static_cast<std::int16_t>(want);
    test::check(halfeven::reference::quantize<std::int16_t>(x, 1.0f, 0, {-32768, 32767}, rule) == code, name, "a code", 1);
    if (rule != Rounding::HALF_EVEN) return;
    const float one = 1.0f;
    const std::int32_t zero = 0;
    std::int16_t got;
    halfeven::quantize(&x, {1, 1, 1}, &one, &zero, {-32768, 32767}, &got);
    test::check(got == code, "quantize", "ties.json", 1);
}

void test_ties(const json::Value& file) {
    const json::Value* rules = file.find("rules");
    test::check(rules && rules->names.size() == std::size(RULES), "a rule in each language", "ties.json", 0);
    for (std::size_t i = 0; rules && i < rules->names.size(); ++i) {
        const Rounding* rule = named(RULES, rules->names[i]);
        test::check(rule && !rules->items[i].items.empty(), rules->names[i].c_str(), "a rule that is known here", 0);
        if (!rule) continue;
        for (const json::Value& pair : rules->items[i].items)
            check_pair(rules->names[i].c_str(), *rule, float_from(pair.items.at(0)), float_from(pair.items.at(1)));
    }
}

const json::Value& field(const json::Value& row, const char* name) {
    const json::Value* found = row.find(name);
    if (!found) {
        std::printf("FAILED: a row without %s\n", name);
        std::exit(2);
    }
    return *found;
}

void test_row(const json::Value& row) {
    const std::string& name = field(row, "flavour").text;
    const bool shifts = name.compare(0, 6, "shift_") == 0;
    const Rounding* rule = shifts ? named(RULES, name.substr(6)) : &RULES[0].value;
    const Requant shift = Requant::SHIFT;
    const Requant* flavour = shifts ? &shift : named(FLAVOURS, name);
    test::check(flavour && rule, name.c_str(), "a flavour that is known here", 0);
    if (!flavour || !rule) return;
    const halfeven::Rescale by = halfeven::rescale_of(real_from(field(row, "multiplier")), *flavour, *rule);
    test::check(by.valid, name.c_str(), "a multiplier that it can express", 0);
    const auto zero = static_cast<std::int32_t>(field(row, "zero_point").number);
    const halfeven::CodeRange range = {static_cast<std::int32_t>(field(row, "low").number),
                                       static_cast<std::int32_t>(field(row, "high").number)};
    const json::Value &acc = field(row, "acc"), &codes = field(row, "codes");
    test::check(!acc.items.empty() && acc.items.size() == codes.items.size(), name.c_str(), "lists of one length", 0);
    for (std::size_t i = 0; i < acc.items.size() && i < codes.items.size(); ++i) {
        const auto a = static_cast<std::int64_t>(acc.items[i].number);
        test::check(halfeven::requantize(a, by, zero, range) == static_cast<std::int32_t>(codes.items[i].number),
                    name.c_str(), "requantize.json", i);
    }
}

void test_requantize(const json::Value& file) {
    const json::Value& rows = field(file, "cases");
    test::check(!rows.items.empty(), "rows", "requantize.json", 0);
    for (const json::Value& row : rows.items) test_row(row);
}

template <typename T>
std::vector<T> list_from(const json::Value& list) {
    std::vector<T> found;
    for (const json::Value& one : list.items) {
        found.push_back(static_cast<T>(one.number));
        test::check(static_cast<double>(found.back()) == one.number, "a code of its type", "integer_ops.json", 1);
    }
    return found;
}

template <typename T>
std::vector<T> array_from(const json::Value& row, const char* name) {
    return list_from<T>(field(field(row, name), "codes"));
}

std::vector<std::size_t> shape_of(const json::Value& row, const char* name) {
    return list_from<std::size_t>(field(field(row, name), "shape"));
}

void test_matmul(const json::Value& row) {
    const auto a = array_from<std::uint8_t>(row, "a");
    const auto b = array_from<std::int8_t>(row, "b");
    const auto want = array_from<std::int32_t>(row, "acc");
    const std::size_t m = shape_of(row, "a").at(0), k = shape_of(row, "a").at(1), n = shape_of(row, "b").at(1);
    std::vector<std::int8_t> by_column(b.size());
    for (std::size_t e = 0; e < b.size(); ++e) by_column[e % n * k + e / n] = b[e];
    const auto zeros = list_from<std::int32_t>(field(row, "b_zero_point")), bias = list_from<std::int32_t>(field(row, "bias"));
    const halfeven::GemmOffsets offsets = {static_cast<std::int32_t>(field(row, "a_zero_point").number), zeros.data(),
                                           bias.data()};
    std::vector<std::int32_t> acc(m * n), plain(m * n);
    halfeven::gemm(a.data(), by_column.data(), {m, n, k}, offsets, acc.data());
    halfeven::reference::gemm(a.data(), by_column.data(), {m, n, k}, offsets, plain.data());
    test::check(test::same(acc, want) && test::same(plain, want), "matmul", "integer_ops.json", want.size());
}

void test_conv2d(const json::Value& row) {
    const auto x = array_from<std::int8_t>(row, "x"), weight = array_from<std::int8_t>(row, "weight");
    const auto want = array_from<std::int32_t>(row, "acc");
    const auto in = shape_of(row, "x"), kernel = shape_of(row, "weight");
    const auto strides = list_from<std::size_t>(field(row, "strides")), pads = list_from<std::size_t>(field(row, "pads"));
    const auto dilations = list_from<std::size_t>(field(row, "dilations"));
    const auto groups = static_cast<std::size_t>(field(row, "groups").number);
    const auto zeros = list_from<std::int32_t>(field(row, "weight_zero_point"));
    const auto bias = list_from<std::int32_t>(field(row, "bias"));
    const halfeven::ConvShape shape = {
        in.at(0), in.at(1), kernel.at(0), groups,
        {in.at(2), kernel.at(2), strides.at(0), dilations.at(0), pads.at(0), pads.at(2)},
        {in.at(3), kernel.at(3), strides.at(1), dilations.at(1), pads.at(1), pads.at(3)}};
    const halfeven::ConvOffsets offsets = {static_cast<std::int32_t>(field(row, "x_zero_point").number), zeros.data(),
                                           bias.data()};
    std::vector<std::int32_t> acc(want.size()), plain(want.size());
    std::vector<std::int8_t> workspace(halfeven::conv_workspace(shape));
    test::check(shape.batch * shape.out_channels * shape.positions() == want.size(), "conv2d", "shape", want.size());
    halfeven::conv(x.data(), weight.data(), shape, offsets, workspace.data(), acc.data());
    halfeven::reference::conv(x.data(), weight.data(), shape, offsets, plain.data());
    test::check(test::same(acc, want) && test::same(plain, want), "conv2d", "integer_ops.json", want.size());
}

void test_integer_ops(const json::Value& file) {
    for (const json::Value& row : field(file, "matmul").items) test_matmul(row);
    for (const json::Value& row : field(file, "conv2d").items) test_conv2d(row);
}

}  // namespace

int main(int count, char** arguments) {
    for (int i = 1; i < count; ++i) {
        const json::Value file = json::read_file(arguments[i]);
        if (file.find("rules")) {
            test_ties(file);
        } else if (file.find("matmul")) {
            test_integer_ops(file);
        } else {
            test_requantize(file);
        }
    }
    test::check(count > 1, "files", "no golden vectors were named", 0);
    return test::finish();
}
