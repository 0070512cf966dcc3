/* 32 bits as a signed number: sums are kept unsigned, so that overflow wraps and is never undefined. */
static int32_t signed_of(uint32_t bits)
{
    return (bits & 0x80000000u) ? -(int32_t)(~bits) - 1 : (int32_t)bits;
}
