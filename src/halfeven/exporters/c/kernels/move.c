/* Transpose, Slice, Split, Concat, Pad, Expand, Resize: codes from one place to another. An axis whose inputs do not
   lie evenly has a list of where they lie. What a pad fills was filled before. */
typedef struct {
    int32_t count, rank, length[RANK], x_start, x_step[RANK], y_start, y_step[RANK]; /* the last in one go */
    const int32_t *list[RANK];
} move_t;

static void move(const int8_t *x, int8_t *y, const move_t *p)
{
    const int32_t last = p->rank - 1;
    const int32_t *list = p->list[last];
    int32_t n, axis, i;
    for (n = 0; n < p->count; n++) {
        const int8_t *from = x + p->x_start;
        int8_t *to = y + p->y_start + offset(n, last, p->length, p->y_step);
        int32_t rest = n;
        for (axis = last - 1; axis >= 0; axis--) {
            const int32_t at = rest % p->length[axis];
            from += p->list[axis] ? p->list[axis][at] : at * p->x_step[axis];
            rest /= p->length[axis];
        }
        for (i = 0; i < p->length[last]; i++) {
            to[i * p->y_step[last]] = from[list ? list[i] : i * p->x_step[last]];
        }
    }
}
