"""twofold prove: two ways to serve the same workload, measured in turns, judged, priced, and put into a bundle."""
