"""Block files: whole or not there, believed only when the checksum says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from twofold.engine.block_files import HEAD_BYTES, BlockFiles, Name, opened, sealed
from twofold.engine.pool import first_key, next_key

SIZES = {"global": 100, "local": 50}


def name(number: int, kind: str = "global") -> Name:
    return kind, next_key(first_key(b""), [number])  # type: ignore[return-value]


def content(number: int, kind: str = "global") -> bytes:
    return bytes([number]) * SIZES[kind]


def files(folder: Path, most_bytes: int = 10_000) -> BlockFiles:
    return BlockFiles(folder, SIZES, most_bytes)


def test_what_was_put_is_there_at_once_and_after_a_restart(tmp_path: Path) -> None:
    kept = files(tmp_path)
    for kind in SIZES:
        for number in range(3):
            assert kept.put(name(number, kind), content(number, kind))
            assert kept.get(name(number, kind)) == content(number, kind)
    kept.close()
    again = files(tmp_path)
    assert sorted(again.names) == sorted(kept.names)
    assert again.size_bytes == 3 * (100 + 50)
    assert [again.get(name(number, "local")) for number in range(4)] == [*(content(n, "local") for n in range(3)), None]
    again.close()


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    kept = files(tmp_path / "new")
    kept.put(name(1), content(1))
    kept.close()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()} == {0o600}


def test_no_damage_goes_unseen() -> None:
    whole = sealed(b"k" * 16, content(7))
    assert opened(b"k" * 16, 100, whole) == content(7)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        assert opened(b"k" * 16, 100, bytes(damaged)) is None
        assert opened(b"k" * 16, 100, whole[:place]) is None
    assert opened(b"k" * 16, 100, whole + b"\0") is None
    assert opened(b"j" * 16, 100, whole) is None
    assert opened(b"k" * 16, 99, whole) is None


@pytest.mark.parametrize("damage", ["shorter", "longer", "flipped", "gone", "another"])
def test_a_damaged_file_is_dropped_when_it_is_read(tmp_path: Path, damage: str) -> None:
    kept = files(tmp_path)
    kept.put(name(1), content(1))
    kept.put(name(2), content(2))
    kept.flush()
    path = tmp_path / f"{name(1)[1].hex()}.global"
    whole = path.read_bytes()
    path.unlink()
    if damage != "gone":
        flipped = whole[:HEAD_BYTES] + bytes([whole[HEAD_BYTES] ^ 8]) + whole[HEAD_BYTES + 1 :]
        other = (tmp_path / f"{name(2)[1].hex()}.global").read_bytes()
        path.write_bytes({"shorter": whole[:-1], "longer": whole + b"x", "flipped": flipped, "another": other}[damage])
    assert kept.get(name(1)) is None
    assert not kept.holds(name(1))
    assert kept.failures == 1
    assert kept.size_bytes == 100
    assert kept.get(name(2)) == content(2)
    kept.close()
    assert not path.exists()


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "0123.partial").write_bytes(b"half")
    (tmp_path / f"{name(1)[1].hex()}.global.partial").write_bytes(b"half")
    kept = files(tmp_path)
    assert kept.names == []
    assert list(tmp_path.iterdir()) == []
    kept.close()


def test_a_block_dropped_before_it_is_written_never_appears(tmp_path: Path) -> None:
    kept = files(tmp_path)
    for number in range(20):
        kept.put(name(number), content(number))
        kept.drop(name(number))
    kept.put(name(3), content(4))  # put again after it was dropped
    kept.close()
    assert [path.stem for path in tmp_path.iterdir()] == [name(3)[1].hex()]
    assert files(tmp_path).get(name(3)) == content(4)


def test_a_disk_that_cannot_be_written_loses_blocks_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = files(tmp_path)
    tmp_path.joinpath(f"{name(1)[1].hex()}.global.partial").mkdir()  # its temporary name is taken
    kept.put(name(1), content(1))
    kept.flush()
    assert not kept.holds(name(1))
    assert (kept.failures, kept.size_bytes) == (1, 0)
    assert "cannot be written" in caplog.text
    kept.close()


def test_too_much_that_waits_is_refused_or_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twofold.engine.block_files.MOST_WAITING_BYTES", 150)
    kept = files(tmp_path)
    kept.run(lambda: __import__("time").sleep(0.2))
    assert kept.put(name(1), content(1))
    assert not kept.put(name(2), content(2))
    assert kept.put(name(2), content(2), patient=True)
    kept.close()
    assert sorted(kept.names) == sorted([name(1), name(2)])


def test_room_is_counted_with_what_waits(tmp_path: Path) -> None:
    kept = files(tmp_path, most_bytes=250)
    kept.put(name(1), content(1))
    kept.put(name(2), content(2))
    assert kept.has_room(name(3, "local"))
    assert not kept.has_room(name(3))
    kept.close()
