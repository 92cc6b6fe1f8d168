"""Triton kernels, one to a file, from one source for CUDA and ROCm. Each file has the launcher of its kernel."""
