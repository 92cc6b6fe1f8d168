"""The cpu backend: the ops on native kernels (native/), for servers without a GPU and for edge devices."""
