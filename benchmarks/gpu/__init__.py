"""The gpu backend on a real device: every kernel is right first, then fast, beside what the device can do at most."""
