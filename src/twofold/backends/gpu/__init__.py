"""The ops on torch tensors, on any device torch knows, with Triton kernels where the device takes them."""
