/* ReduceMean and GlobalAveragePool: sums over some axes, rescaled by a multiplier that holds one over their length. */
typedef struct {
    int32_t count, rank, length[RANK], step[RANK];             /* the axes that stay */
    int32_t over, over_rank, over_length[RANK], over_step[RANK]; /* those that go; the last is walked in one go */
    int32_t zero, multiplier, shift;
    codes_t y;
} mean_t;

static void mean(const int8_t *x, int8_t *y, const mean_t *p)
{
    const int32_t last = p->over_rank - 1;
    int32_t n, m, i;
    for (n = 0; n < p->count; n++) {
        const int8_t *start = x + offset(n, p->rank, p->length, p->step);
        uint32_t sum = 0;
        for (m = 0; m < p->over; m++) {
            const int8_t *seen = start + offset(m, last, p->over_length, p->over_step);
            for (i = 0; i < p->over_length[last]; i++) {
                sum += (uint32_t)(seen[i * p->over_step[last]] - p->zero);
            }
        }
        *y++ = rescale(signed_of(sum), p->multiplier, p->shift, &p->y);
    }
}
