from app import build


def test_a_turn_is_closed():
    assert build("x").endswith("<|eot_id|>")
    assert build.stop_token_ids == [128009]
