"""Quantises the demo model in every scheme and measures it against its bfloat16 self on held-out text.

python -m benchmarks.quality                       every scheme, by calibration and by plain rounding
python -m benchmarks.quality --scheme w4a8 --method gptq
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import write_result
from twofold.api import LLM
from twofold.bench.evaluate import evaluate
from twofold.demo import calibration_file, heldout_file
from twofold.quant.schemes import QUANTISED
from twofold.quantising import METHODS, quantise_model
from twofold.text.rows import read_rows


def measure(model: str | Path, reference: LLM, **settings: Any) -> dict[str, Any]:
    """Quality of one model on the held-out text."""
    found = evaluate(LLM(model, **settings), read_rows(heldout_file()), reference)
    figures = {"perplexity": found.perplexity, "kl_mean": found.kl_mean, "kl_p99": found.kl_p99}
    return {name: round(value or 0.0, 5) for name, value in {**figures, "agreement": found.agreement}.items()}


def quantised(scheme: str, method: str, folder: Path, reference: LLM) -> dict[str, Any]:
    """Quantise, then measure."""
    start = time.perf_counter()
    output = quantise_model("demo", folder / f"{scheme}-{method}", scheme, method, calibration_file())
    seconds = round(time.perf_counter() - start, 1)
    size = sum(path.stat().st_size for path in output.glob("*.safetensors"))
    quality = measure(output, reference)
    return {"scheme": scheme, "method": method, "seconds": seconds, "size_bytes": size, **quality}


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheme", nargs="*", default=list(QUANTISED), choices=QUANTISED)
    parser.add_argument("--method", nargs="*", default=list(METHODS), choices=METHODS)
    arguments = parser.parse_args()
    reference = LLM("demo", dtype="bf16")
    figures = []
    for dtype in ("w4a8", "w8a8"):
        figures.append({"scheme": dtype, "method": "while loading", **measure("demo", reference, dtype=dtype)})
        print(figures[-1], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for scheme in arguments.scheme:
            for method in arguments.method:
                figures.append(quantised(scheme, method, Path(folder), reference))
                print(figures[-1], flush=True)
    print(write_result("quality", "python -m benchmarks.quality", figures))


if __name__ == "__main__":
    main()
