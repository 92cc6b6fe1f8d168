"""Quantises the demo model in every scheme and measures it against its bfloat16 self on held-out text, beside Q4_0.

python -m benchmarks.quality                       every scheme, by calibration and by plain rounding
python -m benchmarks.quality --scheme w4a8 --method gptq
python -m benchmarks.quality --scheme mixed --budget 4.5bit kl=0.01
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.q4_0 import write_q4_0
from benchmarks.results import write_result
from twofold.api import LLM
from twofold.bench.evaluate import evaluate
from twofold.bench.quality import exact_match
from twofold.demo import calibration_file, data_folder, heldout_file
from twofold.loading import open_model
from twofold.quant.recipe import METHODS, Recipe
from twofold.quant.report import REPORT
from twofold.quant.schemes import QUANTISED
from twofold.quantising import quantise_model
from twofold.text.rows import read_lines, read_rows


def measure(model: str | Path, reference: LLM, **settings: Any) -> dict[str, Any]:
    """Quality of one model on the held-out text, and the share of the demo's questions it answers exactly."""
    llm = LLM(model, **settings)
    found = evaluate(llm, read_rows(heldout_file()), reference)
    exact = exact_match(llm, read_lines(data_folder() / "evaluation.jsonl"))["all"]
    figures = {"perplexity": found.perplexity, "kl_mean": found.kl_mean, "kl_p99": found.kl_p99, "exact": exact}
    return {name: round(value or 0.0, 5) for name, value in {**figures, "agreement": found.agreement}.items()}


def quantised(scheme: str, method: str, budget: str | None, folder: Path, reference: LLM) -> dict[str, Any]:
    """Quantise, then measure; memory and what a token reads of it, files, and quality."""
    start = time.perf_counter()
    output = folder / f"{scheme}-{method}-{budget}"
    quantise_model("demo", output, Recipe(scheme, method, calibration_file(), budget=budget))
    seconds = round(time.perf_counter() - start, 1)
    footprint = open_model(output).footprint(scheme)
    figures = {
        "memory_bytes": footprint.total_bytes,
        "read_bytes_per_token": footprint.read_bytes_per_token,
        "size_bytes": sum(path.stat().st_size for path in output.glob("*.safetensors")),
    }
    choice = json.loads((output / REPORT).read_text()).get("choice")
    if choice is not None:
        figures |= {name: choice[name] for name in ("budget", "bits_per_weight", "predicted_kl", "measured_kl")}
    return {"scheme": scheme, "method": method, "seconds": seconds, **figures, **measure(output, reference)}


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheme", nargs="*", default=list(QUANTISED), choices=QUANTISED)
    parser.add_argument("--method", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--budget", nargs="*", default=["4.5bit", "6bit"], help="of mixed, beside the size of w4a8")
    arguments = parser.parse_args()
    reference = LLM("demo", dtype="bf16")
    figures = []
    for dtype in ("bf16", "w4a8", "w8a8"):
        figures.append({"scheme": dtype, "method": "while loading", **measure("demo", reference, dtype=dtype)})
        print(figures[-1], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        q4_0 = measure(write_q4_0(Path(folder) / "q4_0"), reference, dtype="f32")
        figures.append({"scheme": "Q4_0 of GGUF", "method": "round", **q4_0})
        print(figures[-1], flush=True)
        for scheme in arguments.scheme:
            for method in arguments.method:
                for budget in [None, *arguments.budget] if scheme == "mixed" else [None]:
                    figures.append(quantised(scheme, method, budget, Path(folder), reference))
                    print(figures[-1], flush=True)
    print(write_result("quality", " ".join(["python -m benchmarks.quality", *sys.argv[1:]]), figures))


if __name__ == "__main__":
    main()
