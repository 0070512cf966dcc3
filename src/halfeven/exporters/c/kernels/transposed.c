/* ConvTranspose: for each output the inputs that reach it; those that fall between strides do not exist. */
typedef struct {
    int32_t batch, groups, in_channels, out_channels; /* channels of one group */
    int32_t height, width, out_height, out_width;
    int32_t kernel_height, kernel_width, stride_y, stride_x, pad_top, pad_left, dilation_y, dilation_x;
    int32_t zero, per_channel;
    const int8_t *weight; /* [groups * in_channels][out_channels][kernel_height][kernel_width] */
    const int32_t *bias, *multiplier;
    const uint8_t *shift;
    codes_t y;
} transposed_t;

static uint32_t transposed_sum(const int8_t *x, const transposed_t *p, const int8_t *w, int32_t row, int32_t column)
{
    const int32_t area = p->kernel_height * p->kernel_width;
    uint32_t sum = 0;
    int32_t c, r, s;
    for (r = 0; r < p->kernel_height; r++) {
        const int32_t below = row + p->pad_top - r * p->dilation_y;
        if (below < 0 || below % p->stride_y != 0 || below / p->stride_y >= p->height) {
            continue;
        }
        for (s = 0; s < p->kernel_width; s++) {
            const int32_t right = column + p->pad_left - s * p->dilation_x;
            const int32_t at = below / p->stride_y * p->width + right / p->stride_x;
            if (right < 0 || right % p->stride_x != 0 || right / p->stride_x >= p->width) {
                continue;
            }
            for (c = 0; c < p->in_channels; c++) {
                const int32_t weight = w[c * p->out_channels * area + r * p->kernel_width + s];
                sum += (uint32_t)(weight * (x[c * p->height * p->width + at] - p->zero));
            }
        }
    }
    return sum;
}

static void transposed(const int8_t *x, int8_t *y, const transposed_t *p)
{
    const int32_t area = p->kernel_height * p->kernel_width, channels = p->groups * p->out_channels;
    int32_t n, row, column;
    for (n = 0; n < p->batch * channels; n++) {
        const int32_t o = n % channels, group = o / p->out_channels, by = p->per_channel ? o : 0;
        const int8_t *seen = x + (n / channels * p->groups + group) * p->in_channels * p->height * p->width;
        const int8_t *w = p->weight + (group * p->in_channels * p->out_channels + o % p->out_channels) * area;
        for (row = 0; row < p->out_height; row++) {
            for (column = 0; column < p->out_width; column++) {
                const uint32_t sum = (uint32_t)p->bias[o] + transposed_sum(seen, p, w, row, column);
                *y++ = rescale(signed_of(sum), p->multiplier[by], p->shift[by], &p->y);
            }
        }
    }
}
