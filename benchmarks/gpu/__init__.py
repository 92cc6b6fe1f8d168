"""Checks and measurements of the GPU kernels, to be run where there is a device."""
