"""ONNX Runtime's execution providers by the short names of --device."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from twofold.errors import SettingsError

PROVIDERS: Mapping[str, tuple[str, str]] = {
    "cpu": ("CPUExecutionProvider", "onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu"),
    "migraphx": ("MIGraphXExecutionProvider", "onnxruntime-migraphx"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "qnn": ("QNNExecutionProvider", "onnxruntime-qnn"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime (on macOS)"),
    "dml": ("DmlExecutionProvider", "onnxruntime-directml"),
}
"""Short name: the runtime's own name, and the package that has it. One of these packages can be installed at a time."""


def choose_provider(device: str | None, installed: Collection[str]) -> list[str]:
    """The providers to ask for, the chosen one first; the CPU takes what that one cannot run.

    Raises SettingsError for an unknown name, or one that is not `installed`.
    """
    name = device or "cpu"
    if name not in PROVIDERS:
        raise SettingsError(f"device is {name!r}; for backend onnx it must be one of {', '.join(PROVIDERS)}")
    provider, package = PROVIDERS[name]
    if provider not in installed:
        here = ", ".join(short for short, (full, _) in PROVIDERS.items() if full in installed)
        raise SettingsError(
            f"the installed ONNX Runtime has no {provider}; it has {here}. The package {package} has it: uninstall "
            f"onnxruntime and install that one."
        )
    fallback = PROVIDERS["cpu"][0]
    return [provider] if provider == fallback else [provider, fallback]
