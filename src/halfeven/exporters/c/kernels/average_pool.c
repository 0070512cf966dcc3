/* AveragePool: the sum of a window, rescaled by a multiplier that holds one over the number of elements counted. */
typedef struct {
    int32_t channels, height, width, out_height, out_width;
    int32_t kernel_height, kernel_width, stride_y, stride_x, pad_top, pad_left;
    int32_t zero;
    const uint8_t *which; /* of each output, which multiplier */
    const int32_t *multiplier;
    const uint8_t *shift;
    codes_t y;
} average_pool_t;

static void average_pool(const int8_t *x, int8_t *y, const average_pool_t *p)
{
    int32_t c, row, column, r, s, top, left;
    for (c = 0; c < p->channels; c++, x += p->height * p->width) {
        const uint8_t *which = p->which;
        for (row = 0; row < p->out_height; row++) {
            const int32_t line = row * p->stride_y - p->pad_top;
            const int32_t bottom = window(line, p->kernel_height, 1, p->height, &top);
            for (column = 0; column < p->out_width; column++, which++) {
                const int32_t at = column * p->stride_x - p->pad_left;
                const int32_t right = window(at, p->kernel_width, 1, p->width, &left);
                int32_t sum = 0;
                for (r = top; r < bottom; r++) {
                    for (s = left; s < right; s++) {
                        sum += x[(line + r) * p->width + at + s] - p->zero;
                    }
                }
                *y++ = rescale(sum, p->multiplier[*which], p->shift[*which], &p->y);
            }
        }
    }
}
