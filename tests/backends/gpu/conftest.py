"""Kernels are tested where torch and Triton are installed."""

from __future__ import annotations

import importlib.util

IS_INSTALLED = all(importlib.util.find_spec(name) for name in ("torch", "triton"))
collect_ignore_glob = [] if IS_INSTALLED else ["test_*.py"]

if IS_INSTALLED:
    from tests.backends.gpu import interpreter

    interpreter.repair()
