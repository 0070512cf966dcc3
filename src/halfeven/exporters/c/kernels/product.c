/* MatMul and Gemm: rows of a times columns of b, for each matrix of a batch; either may be constant. */
typedef struct {
    int32_t batch, rank, length[RANK], a_step[RANK], b_step[RANK];
    int32_t rows, columns, depth, a_row, a_next, b_column, b_next;
    int32_t a_zero, b_zero, bias_row, bias_column, scale_row, scale_column;
    const int32_t *bias, *multiplier;
    const uint8_t *shift;
    codes_t y;
} product_t;

static void product(const int8_t *a, const int8_t *b, int8_t *y, const product_t *p)
{
    int32_t n, i, j, k;
    for (n = 0; n < p->batch; n++) {
        const int8_t *left = a + offset(n, p->rank, p->length, p->a_step);
        const int8_t *right = b + offset(n, p->rank, p->length, p->b_step);
        for (i = 0; i < p->rows; i++) {
            for (j = 0; j < p->columns; j++) {
                const int32_t by = i * p->scale_row + j * p->scale_column;
                const int8_t *u = left + i * p->a_row, *v = right + j * p->b_column;
                uint32_t sum = (uint32_t)p->bias[i * p->bias_row + j * p->bias_column];
                for (k = 0; k < p->depth; k++) {
                    sum += (uint32_t)((u[k * p->a_next] - p->a_zero) * (v[k * p->b_next] - p->b_zero));
                }
                *y++ = rescale(signed_of(sum), p->multiplier[by], p->shift[by], &p->y);
            }
        }
    }
}
