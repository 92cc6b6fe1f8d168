"""twofold beside other engines: the same random networks, the same work, in turns on the same machine.

python -m benchmarks.peers --help tells how to run it; docs/benchmarks.md how to read it.
"""
