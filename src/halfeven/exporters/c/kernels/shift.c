/* value / 2**shift, rounded down; the complement keeps the shift of a negative number defined. */
static int64_t shift_down(int64_t value, int32_t shift)
{
    return (value < 0) ? ~(~value >> shift) : value >> shift;
}
