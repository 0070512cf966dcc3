/* Conv: sums for up to STRIP outputs of a row at a time, one weight after another, over those outputs that see no pad.
   A depthwise layer is one with as many groups as channels; a 1x1 layer without stride or pad is one long row. */
#define STRIP 64

typedef struct {
    int32_t batch, groups, in_channels, out_channels; /* channels of one group */
    int32_t height, width, out_height, out_width;
    int32_t kernel_height, kernel_width, stride_y, stride_x, pad_top, pad_left, dilation_y, dilation_x;
    int32_t zero, per_channel;
    const int8_t *weight; /* [groups * out_channels][in_channels][kernel_height][kernel_width] */
    const int32_t *bias, *multiplier;
    const uint8_t *shift;
    codes_t y;
} convolution_t;

static void convolution_row(const int8_t *x, int8_t *y, const convolution_t *p, int32_t o, int32_t row)
{
    const int32_t zero = p->zero;
    const int8_t *w;
    uint32_t sum[STRIP];
    int32_t first, i, c, r, s;
    for (first = 0; first < p->out_width; first += STRIP) {
        const int32_t count = (p->out_width - first < STRIP) ? p->out_width - first : STRIP;
        w = p->weight + o * p->in_channels * p->kernel_height * p->kernel_width;
        for (i = 0; i < count; i++) {
            sum[i] = (uint32_t)p->bias[o];
        }
        for (c = 0; c < p->in_channels; c++) {
            for (r = 0; r < p->kernel_height; r++) {
                const int32_t line = row * p->stride_y + r * p->dilation_y - p->pad_top;
                if (line < 0 || line >= p->height) {
                    w += p->kernel_width;
                    continue;
                }
                for (s = 0; s < p->kernel_width; s++, w++) {
                    const int32_t at = first * p->stride_x + s * p->dilation_x - p->pad_left;
                    const int32_t from = (at < 0) ? (p->stride_x - 1 - at) / p->stride_x : 0;
                    const int32_t room = p->width - at;
                    const int32_t fit = (room <= 0) ? 0 : (room - 1) / p->stride_x + 1;
                    const int32_t to = (fit < count) ? fit : count;
                    const int8_t *seen = x + (c * p->height + line) * p->width;
                    const int32_t weight = *w;
                    if (p->stride_x == 1) { /* the same loop, which a compiler can turn into vectors */
                        for (i = from; i < to; i++) {
                            sum[i] += (uint32_t)(weight * (seen[at + i] - zero));
                        }
                        continue;
                    }
                    for (i = from; i < to; i++) {
                        sum[i] += (uint32_t)(weight * (seen[at + i * p->stride_x] - zero));
                    }
                }
            }
        }
        for (i = 0; i < count; i++) {
            const int32_t by = p->per_channel ? o : 0;
            y[first + i] = rescale(signed_of(sum[i]), p->multiplier[by], p->shift[by], &p->y);
        }
    }
}

static void convolution(const int8_t *x, int8_t *y, const convolution_t *p)
{
    const int32_t channels = p->groups * p->out_channels, group = p->in_channels * p->height * p->width;
    int32_t n, o, row;
    for (n = 0; n < p->batch; n++, x += p->groups * group) {
        for (o = 0; o < channels; o++) {
            for (row = 0; row < p->out_height; row++) {
                convolution_row(x + o / p->out_channels * group, y, p, o, row);
                y += p->out_width;
            }
        }
    }
}
