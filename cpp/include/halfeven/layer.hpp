// A whole layer: convolution (a matrix product is one with a 1 x 1 kernel) of 8-bit codes with packed weights, its bias,
// and what becomes of the sums: 32-bit accumulators, or codes by any way of requantize.hpp, tile by tile.
//
// The work is cut into panels of output positions, and where these are few, into runs of rows too; each piece is computed
// by one thread alone, so the number of threads changes no bit.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <algorithm>
#include <vector>

#include "halfeven/crew.hpp"
#include "halfeven/depthwise.hpp"
#include "halfeven/panels.hpp"

namespace halfeven {

// Rows `begin` .. `end` of blocks of one group of one image, for the positions of one panel.
template <typename In, typename Code>
inline void layer_panel(const In* in, const PackedWeights& w, const ConvShape& shape, size_t group, size_t panel,
                        size_t begin, size_t end, LayerOffsets offsets, const Finish& f, Code* out) {
    const size_t columns = w.tile.columns, first = panel * columns, positions = shape.positions();
    const size_t count = std::min(columns, positions - first);
    static thread_local std::vector<int16_t> packed;
    packed.resize(w.pairs() * 2 * columns);
    pack_inputs(in, shape, first, count, columns, offsets.in_zero_point, packed.data());
    int32_t sums[MOST_ROWS * MOST_COLUMNS];
    const TileKernel multiply = count == 1 && w.tile.narrow ? w.tile.narrow : w.tile.sums;
    for (size_t block = begin; block < end; ++block) {
        multiply(w.block(group, block), packed.data(), w.pairs(), sums);
        const size_t from = block * w.tile.rows, o = group * shape.group_out() + from;
        finish(sums, std::min(w.tile.rows, shape.group_out() - from), columns, count, o, offsets.bias, f, positions,
               out + o * positions + first);
    }
}

// `in`: batch x channels x height x width; `out`: batch x out_channels x positions, codes, or sums if Code is int32_t.
template <typename In, typename Code>
inline void layer(const In* in, const PackedWeights& w, const ConvShape& shape, LayerOffsets offsets, const Finish& f,
                  int threads, Code* out) {
    const size_t image = shape.in_channels * shape.y.in * shape.x.in, made = shape.out_channels * shape.positions();
    if (w.depthwise) {
        Crew::get().run(threads, shape.batch * shape.out_channels, [&](size_t task) {
            const size_t n = task / shape.out_channels, o = task % shape.out_channels;
            depthwise(in + n * image + o * shape.y.in * shape.x.in, w, shape, o, offsets.in_zero_point,
                      offsets.bias ? offsets.bias[o] : 0, f, out + n * made + o * shape.positions());
        });
        return;
    }
    const size_t panels = (shape.positions() + w.tile.columns - 1) / w.tile.columns;
    const size_t pieces = shape.batch * shape.groups * panels;
    const size_t wanted = static_cast<size_t>(std::max(threads, 1)) * 2;
    const size_t cuts = pieces >= wanted ? 1 : std::min(w.blocks(), (wanted + pieces - 1) / std::max<size_t>(pieces, 1));
    Crew::get().run(threads, pieces * cuts, [&](size_t task) {
        const size_t cut = task % cuts, piece = task / cuts, panel = piece % panels;
        const size_t group = piece / panels % shape.groups, n = piece / panels / shape.groups;
        layer_panel(in + n * image + group * shape.group_in() * shape.y.in * shape.x.in, w, shape, group, panel,
                    w.blocks() * cut / cuts, w.blocks() * (cut + 1) / cuts, offsets, f, out + n * made);
    });
}

}  // namespace halfeven
