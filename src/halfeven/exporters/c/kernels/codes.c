/* What an output's codes are: their zero point and limits. */
typedef struct {
    int32_t zero, low, high;
} codes_t;

static int8_t limited(int64_t value, const codes_t *y)
{
    value += y->zero;
    return (int8_t)((value < y->low) ? y->low : (value > y->high) ? y->high : value);
}
