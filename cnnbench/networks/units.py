"""The units that every figure is in, stated once.

*1 MAC (a multiplication and an addition) = 2 FLOP. GB = 1e9 bytes, GiB = 2**30 bytes.*
Times are seconds inside the program and carry `_s` in their names; sizes carry `_bytes`.
"""

FLOP_PER_MAC = 2
FLOAT_BYTES = 4  # float32
INDEX_BYTES = 8  # int64
MB = 10**6
MIB, GIB = 2**20, 2**30
GIGA = 10**9
