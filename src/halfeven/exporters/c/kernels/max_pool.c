/* MaxPool: the largest code of a window; pads never win. */
typedef struct {
    int32_t channels, height, width, out_height, out_width;
    int32_t kernel_height, kernel_width, stride_y, stride_x, pad_top, pad_left, dilation_y, dilation_x;
} max_pool_t;

static void max_pool(const int8_t *x, int8_t *y, const max_pool_t *p)
{
    int32_t c, row, column, r, s, top, left;
    for (c = 0; c < p->channels; c++, x += p->height * p->width) {
        for (row = 0; row < p->out_height; row++) {
            const int32_t line = row * p->stride_y - p->pad_top;
            const int32_t bottom = window(line, p->kernel_height, p->dilation_y, p->height, &top);
            for (column = 0; column < p->out_width; column++) {
                const int32_t at = column * p->stride_x - p->pad_left;
                const int32_t right = window(at, p->kernel_width, p->dilation_x, p->width, &left);
                int8_t found = INT8_MIN;
                for (r = top; r < bottom; r++) {
                    for (s = left; s < right; s++) {
                        const int8_t seen = x[(line + r * p->dilation_y) * p->width + at + s * p->dilation_x];
                        found = (seen > found) ? seen : found;
                    }
                }
                *y++ = found;
            }
        }
    }
}
