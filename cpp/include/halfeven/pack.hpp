// Codes of 1 to 8 bits, one after another in bytes; `numerics/packing.py` defines it.
//
//     order     the codes a, b, c, d of 2 bits       the codes a, b of 4 bits
//     LOW       d c b a in one byte, high to low     b a                          ONNX int2, int4
//     HIGH      a b c d                              a b
//
// The last byte is padded with zeros. Signed codes are their lowest bits in two's complement. The kernels are for 1, 2
// and 4 bits, of which a byte holds a whole number; reference:: has any width, and codes that straddle bytes.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "halfeven/dispatch.hpp"

namespace halfeven {

enum class BitOrder : uint8_t { LOW, HIGH };

inline size_t packed_size(size_t count, int bits) { return (count * static_cast<size_t>(bits) + 7) / 8; }

// The lowest `bits` of `field` as a code, sign-extended where Code is signed.
template <typename Code>
HALFEVEN_INLINE Code code_of(unsigned field, int bits) {
    const unsigned sign = static_cast<Code>(-1) < static_cast<Code>(0) ? 1u << (bits - 1) : 0u;
    return static_cast<Code>(static_cast<int>(field ^ sign) - static_cast<int>(sign));
}

namespace reference {

// Bit `b` of code `i` has the place i * bits + b in the stream, or from the highest bit on.
inline bool bit_at(const uint8_t* bytes, size_t place, BitOrder order) {
    const unsigned shift = order == BitOrder::LOW ? place % 8 : 7 - place % 8;
    return (bytes[place / 8] >> shift) & 1;
}

template <typename Code>
inline void pack(const Code* codes, size_t count, int bits, BitOrder order, uint8_t* bytes) {
    for (size_t i = 0; i < packed_size(count, bits); ++i) bytes[i] = 0;
    for (size_t place = 0; place < count * static_cast<size_t>(bits); ++place) {
        const int bit = static_cast<int>(place % static_cast<size_t>(bits));
        const unsigned from = static_cast<unsigned>(order == BitOrder::LOW ? bit : bits - 1 - bit);
        const unsigned to = order == BitOrder::LOW ? place % 8 : 7 - place % 8;
        const unsigned code = static_cast<unsigned>(static_cast<int>(codes[place / static_cast<size_t>(bits)]));
        bytes[place / 8] = static_cast<uint8_t>(bytes[place / 8] | (((code >> from) & 1u) << to));
    }
}

template <typename Code>
inline void unpack(const uint8_t* bytes, size_t count, int bits, BitOrder order, Code* codes) {
    for (size_t i = 0; i < count; ++i) {
        unsigned field = 0;
        for (int b = 0; b < bits; ++b) {
            const unsigned bit = bit_at(bytes, i * static_cast<size_t>(bits) + static_cast<size_t>(b), order);
            field |= bit << (order == BitOrder::LOW ? b : bits - 1 - b);
        }
        codes[i] = code_of<Code>(field, bits);
    }
}

}  // namespace reference

// Of the `each` codes in a byte, where the j-th lies.
HALFEVEN_INLINE int place_of(int j, int each, int bits, BitOrder order) {
    return bits * (order == BitOrder::LOW ? j : each - 1 - j);
}

// BITS is 1, 2 or 4; a constant, so that the inner loops unroll.
template <int BITS, typename Code>
HALFEVEN_INLINE void pack_run(const Code* __restrict codes, size_t count, BitOrder order, uint8_t* __restrict bytes) {
    constexpr int EACH = 8 / BITS;
    constexpr unsigned MASK = (1u << BITS) - 1;
    const size_t whole = count / EACH;
    for (size_t i = 0; i < whole; ++i) {
        unsigned byte = 0;
        for (int j = 0; j < EACH; ++j)
            byte |= (static_cast<unsigned>(codes[i * EACH + static_cast<size_t>(j)]) & MASK) << place_of(j, EACH, BITS, order);
        bytes[i] = static_cast<uint8_t>(byte);
    }
    if (whole * EACH == count) return;
    unsigned byte = 0;
    for (size_t i = whole * EACH; i < count; ++i)
        byte |= (static_cast<unsigned>(codes[i]) & MASK) << place_of(static_cast<int>(i % EACH), EACH, BITS, order);
    bytes[whole] = static_cast<uint8_t>(byte);
}

template <int BITS, typename Code>
HALFEVEN_INLINE void unpack_run(const uint8_t* __restrict bytes, size_t count, BitOrder order, Code* __restrict codes) {
    constexpr int EACH = 8 / BITS;
    constexpr unsigned MASK = (1u << BITS) - 1;
    const size_t whole = count / EACH;
    for (size_t i = 0; i < whole; ++i)
        for (int j = 0; j < EACH; ++j)
            codes[i * EACH + static_cast<size_t>(j)] =
                code_of<Code>((bytes[i] >> place_of(j, EACH, BITS, order)) & MASK, BITS);
    for (size_t i = whole * EACH; i < count; ++i)
        codes[i] = code_of<Code>((bytes[whole] >> place_of(static_cast<int>(i % EACH), EACH, BITS, order)) & MASK, BITS);
}

// Code is int8_t or uint8_t; `bytes` has packed_size(count, bits) elements.
template <typename Code>
inline void pack(const Code* codes, size_t count, int bits, BitOrder order, uint8_t* bytes) {
    if (bits == 1) return pack_run<1>(codes, count, order, bytes);
    if (bits == 2) return pack_run<2>(codes, count, order, bytes);
    if (bits == 4) return pack_run<4>(codes, count, order, bytes);
    reference::pack(codes, count, bits, order, bytes);
}

template <typename Code>
inline void unpack(const uint8_t* bytes, size_t count, int bits, BitOrder order, Code* codes) {
    if (bits == 1) return unpack_run<1>(bytes, count, order, codes);
    if (bits == 2) return unpack_run<2>(bytes, count, order, codes);
    if (bits == 4) return unpack_run<4>(bytes, count, order, codes);
    reference::unpack(bytes, count, bits, order, codes);
}

}  // namespace halfeven
