/* Softmax: exponentials of the distance to the largest code from a table, each over their sum, rounded once. */
typedef struct {
    int32_t outer, length, inner, multiplier, shift;
    const int32_t *exponential; /* 2**23 e**(-distance * scale) */
    codes_t y;
} softmax_t;

static void softmax(const int8_t *x, int8_t *y, const softmax_t *p)
{
    int32_t n, j, i;
    for (n = 0; n < p->outer * p->inner; n++) {
        const int32_t start = n / p->inner * p->length * p->inner + n % p->inner;
        int32_t most = INT8_MIN;
        uint64_t sum = 0;
        for (j = 0; j < p->length; j++) {
            i = start + j * p->inner;
            most = (x[i] > most) ? x[i] : most;
        }
        for (j = 0; j < p->length; j++) {
            sum += (uint64_t)p->exponential[most - x[start + j * p->inner]];
        }
        for (j = 0; j < p->length; j++) {
            uint64_t part;
            i = start + j * p->inner;
            part = (uint64_t)p->exponential[most - x[i]] * (uint64_t)p->multiplier + (sum << (p->shift - 1));
            y[i] = limited((int64_t)(part / (sum << p->shift)), &p->y);
        }
    }
}
