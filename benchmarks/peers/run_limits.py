"""The machine's limits, measured in a process of its own: one JSON line. The argument is the number of threads."""

from __future__ import annotations

import json
import sys

from twofold.backends.cpu.ops import load_native

READ_BYTES = 2**30


def main() -> None:
    """Print all limits."""
    module, threads = load_native(), int(sys.argv[1])
    native = module.Native()
    found = {
        "read_bytes_per_s": module.measure_read(READ_BYTES, threads),
        "int8_ops_per_s": native.measure_int8(threads),
        "int4_ops_per_s": native.measure_int4(threads),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
