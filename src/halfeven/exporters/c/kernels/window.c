/* Which taps of a window lie inside the input: from `*first` to before the value returned. */
static int32_t window(int32_t start, int32_t taps, int32_t dilation, int32_t size, int32_t *first)
{
    const int32_t room = size - start;
    const int32_t fit = (room <= 0) ? 0 : (room - 1) / dilation + 1;
    *first = (start < 0) ? (dilation - 1 - start) / dilation : 0;
    return (fit < taps) ? fit : taps;
}
