/* Mul: the product of two codes, rescaled. A step of 0 repeats an operand. */
typedef struct {
    int32_t count, rank, length[RANK], a_step[RANK], b_step[RANK]; /* the last axis is walked in one go */
    int32_t a_zero, b_zero, multiplier, shift;
    codes_t y;
} multiplication_t;

static void multiplication(const int8_t *a, const int8_t *b, int8_t *y, const multiplication_t *p)
{
    const int32_t last = p->rank - 1;
    int32_t n, i;
    for (n = 0; n < p->count; n++) {
        const int8_t *u = a + offset(n, last, p->length, p->a_step);
        const int8_t *v = b + offset(n, last, p->length, p->b_step);
        for (i = 0; i < p->length[last]; i++) {
            const int32_t found = (u[i * p->a_step[last]] - p->a_zero) * (v[i * p->b_step[last]] - p->b_zero);
            *y++ = rescale(found, p->multiplier, p->shift, &p->y);
        }
    }
}
