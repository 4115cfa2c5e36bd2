"""Byte units. Model sizes and GPU memory are quoted in powers of ten, RAM in powers of two."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
GB = 10**9
