"""What a server leaves behind, read from texts."""

from __future__ import annotations

import pytest

from benchmarks.serving.traces import differences, growth, read_metrics, unread_bytes

TEXT = """# HELP vllm:num_requests_running Requests in the batch.
vllm:num_requests_running{model_name="a b",engine="0"} 3.0
vllm:num_requests_waiting{model_name="a b",engine="0"} 2.0
vllm:kv_cache_usage_perc{model_name="a b",engine="0"} 0.25
twofold:tasks{model_name="a b",engine="0"} 9.0
vllm:num_preemptions_total{model_name="a b",engine="0"} 1.0
http_requests_total 7.0
"""
TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000
   1: 0100007F:1F90 0100007F:A1B2 01 00091632:00000000 01:00000015 00000000
   2: 0100007F:1F90 0100007F:A1B3 01 00000010:00000000 01:00000015 00000000
   3: 0100007F:A1B2 0100007F:1F90 01 0FFFFFFF:00001000 00:00000000 00000000
"""
CALM = {
    "running": 0.0, "waiting": 0.0, "cache_used": 0.0, "tasks": 5.0,
    "threads": 9, "open_files": 12, "memory_mib": 100.0,
}  # fmt: skip


def test_metrics_are_read_by_their_names() -> None:
    expected = {"running": 3.0, "waiting": 2.0, "cache_used": 0.25, "tasks": 9.0, "preemptions": 1.0}
    assert read_metrics(TEXT) == expected


def test_the_fullest_send_queue_of_the_server_counts() -> None:
    assert unread_bytes(TABLE, 0x1F90) == 0x91632
    assert unread_bytes(TABLE, 81) == 0


@pytest.mark.parametrize(
    ("name", "value", "is_fault"),
    [
        ("running", 1.0, True),
        ("cache_used", 0.01, True),
        ("tasks", 6.0, True),
        ("open_files", 13, True),
        ("threads", 8, False),
        ("threads", 50, True),
        ("memory_mib", 160.0, False),
    ],
)
def test_what_has_not_come_back_is_a_fault(name: str, value: float, is_fault: bool) -> None:
    assert bool(differences(CALM, CALM | {name: value})) == is_fault


def test_memory_that_comes_and_goes_is_no_leak_and_one_that_only_comes_is() -> None:
    assert growth([280.0, 340.0, 282.0, 341.0, 283.0, 340.0, 281.0, 342.0]) == []
    assert growth([280.0 + 10 * number for number in range(20)])
    assert growth([280.0]) == []
