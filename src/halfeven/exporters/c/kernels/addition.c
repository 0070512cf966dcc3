/* Add and Sub: both operands in fixed point, one rounding of their sum. A step of 0 repeats an operand. */
typedef struct {
    int32_t count, rank, length[RANK], a_step[RANK], b_step[RANK]; /* the last axis is walked in one go */
    int32_t a_zero, b_zero, a_multiplier, b_multiplier, shift;
    codes_t y;
} addition_t;

static void addition(const int8_t *a, const int8_t *b, int8_t *y, const addition_t *p)
{
    const int32_t last = p->rank - 1;
    int32_t n, i;
    for (n = 0; n < p->count; n++) {
        const int8_t *u = a + offset(n, last, p->length, p->a_step);
        const int8_t *v = b + offset(n, last, p->length, p->b_step);
        for (i = 0; i < p->length[last]; i++) {
            const int64_t first = (int64_t)(u[i * p->a_step[last]] - p->a_zero) * p->a_multiplier;
            const int64_t second = (int64_t)(v[i * p->b_step[last]] - p->b_zero) * p->b_multiplier;
            const int64_t half = p->shift ? (int64_t)1 << (p->shift - 1) : 0;
            *y++ = limited(shift_down(first + second + half, p->shift), &p->y);
        }
    }
}
