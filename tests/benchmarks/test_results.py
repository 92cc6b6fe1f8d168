"""Result files have plain names."""

import pytest

from benchmarks.results import short_name


@pytest.mark.parametrize(
    ("cpu", "name"),
    [
        ("AMD EPYC", "amd-epyc"),
        ("Intel(R) Xeon(R) Processor", "intel-xeon"),
        ("Intel(R) Core(TM) i7-1260P", "intel-core-i7-1260p"),
        ("", "unknown"),
    ],
)
def test_a_cpu_becomes_part_of_a_file_name(cpu: str, name: str) -> None:
    assert short_name(cpu) == name
