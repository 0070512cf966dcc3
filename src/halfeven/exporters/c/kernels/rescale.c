/* A sum times multiplier / 2**shift, rounded once, half up; then the zero point, then the limits. */
static int8_t rescale(int32_t sum, int32_t multiplier, int32_t shift, const codes_t *y)
{
    const int64_t half = (int64_t)1 << (shift - 1);
    return limited(shift_down((int64_t)sum * multiplier + half, shift), y);
}
