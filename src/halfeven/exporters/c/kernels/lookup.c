/* A function of one number: the code that stands in its table for each of the 256. */
typedef struct {
    int32_t count;
    const int8_t *table;
} lookup_t;

static void lookup(const int8_t *x, int8_t *y, const lookup_t *p)
{
    int32_t i;
    for (i = 0; i < p->count; i++) {
        y[i] = p->table[x[i] + 128];
    }
}
