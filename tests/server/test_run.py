"""What a server does around its life."""

from __future__ import annotations

import gc

from twofold.server.run import settled


def test_what_lives_as_long_as_the_server_is_out_of_the_collectors_sight_meanwhile() -> None:
    with settled():
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0
