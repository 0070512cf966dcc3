/* PRelu: what is not negative by one multiplier, the rest times its slope by another. */
typedef struct {
    int32_t count, rank, length[RANK], a_step[RANK], b_step[RANK]; /* the last axis is walked in one go */
    int32_t a_zero, b_zero, multiplier, shift, slope_multiplier, slope_shift;
    codes_t y;
} prelu_t;

static void prelu(const int8_t *a, const int8_t *b, int8_t *y, const prelu_t *p)
{
    const int32_t last = p->rank - 1;
    int32_t n, i;
    for (n = 0; n < p->count; n++) {
        const int8_t *u = a + offset(n, last, p->length, p->a_step);
        const int8_t *v = b + offset(n, last, p->length, p->b_step);
        for (i = 0; i < p->length[last]; i++) {
            const int32_t given = u[i * p->a_step[last]] - p->a_zero;
            const int32_t slope = v[i * p->b_step[last]] - p->b_zero;
            *y++ = (given >= 0) ? rescale(given, p->multiplier, p->shift, &p->y)
                                : rescale(given * slope, p->slope_multiplier, p->slope_shift, &p->y);
        }
    }
}
