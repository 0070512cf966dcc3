/* Where element number `n` of a block of `rank` axes lies, given how far apart neighbours along each axis are. */
static int32_t offset(int32_t n, int32_t rank, const int32_t *length, const int32_t *step)
{
    int32_t axis, found = 0;
    for (axis = rank - 1; axis >= 0; axis--) {
        found += n % length[axis] * step[axis];
        n /= length[axis];
    }
    return found;
}
