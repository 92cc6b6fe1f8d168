"""The machine's limits, measured in a process of its own: one JSON line. The argument is the number of threads."""

from __future__ import annotations

import json
import sys

from twofold.backends.cpu.ops import load_native

READ_BYTES = 2**30


def main() -> None:
    """Print both limits."""
    module, threads = load_native(), int(sys.argv[1])
    read, operations = module.measure_read(READ_BYTES, threads), module.Native().measure_int8(threads)
    print(json.dumps({"read_bytes_per_s": read, "int8_ops_per_s": operations}))


if __name__ == "__main__":
    main()
