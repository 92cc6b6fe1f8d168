"""python -m benchmarks.gpu --out FILE.json: checks, limits and speed of the gpu backend on the device at hand."""

from __future__ import annotations

import importlib.util
import sys

NEEDS = ("torch", "triton")


def main() -> int:
    """The benchmark; 2 where what it runs on is not installed."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        print(f"error: {' and '.join(missing)} not installed: pip install 'twofold[gpu]'", file=sys.stderr)
        return 2
    from benchmarks.gpu import suite

    return suite.main()


if __name__ == "__main__":
    sys.exit(main())
