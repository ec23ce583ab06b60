package tool

// Money is an amount in integer micro-USD.
type Money int64

// Size is a number of bytes, written as 512B, 64KiB, 8MiB or 4GiB.
type Size int64
