"""A network is known from its config alone, wherever that is; nothing is downloaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.models.test_configs import SCOUT
from tests.weights.make_gguf import write_gguf
from twofold.blueprint import read_blueprint
from twofold.demo import model_folder
from twofold.errors import CheckpointError, ModelNotFound, SettingsError, UnsupportedModel
from twofold.loading import open_model


def test_a_config_alone_says_what_the_whole_folder_says(tmp_path: Path) -> None:
    shutil.copyfile(model_folder() / "config.json", tmp_path / "config.json")
    whole = open_model("demo")
    for name in ("demo", str(model_folder()), str(tmp_path), str(tmp_path / "config.json")):
        blueprint = read_blueprint(name)
        assert blueprint.own is None
        for scheme in ("bf16", "w8a8", "w4a8"):
            assert blueprint.footprint(scheme) == whole.footprint(scheme), name


def test_fp8_holds_layers_in_eight_bits_and_the_rest_in_sixteen() -> None:
    blueprint = read_blueprint("demo")
    fp8, bf16, w8a8 = (blueprint.footprint(name).bytes for name in ("fp8", "bf16", "w8a8"))
    assert all(fp8[role] == bf16[role] for role in ("embedding", "head", "norm", "router"))
    assert all(fp8[role] <= w8a8[role] for role in ("attention", "shared", "expert"))


def test_files_with_bits_of_their_own_are_planned_as_they_are_too(tmp_path: Path) -> None:
    path = tmp_path / "demo.gguf"
    write_gguf(model_folder(), path, "Q4_0")
    blueprint = read_blueprint(path)
    assert blueprint.schemes[0] == "gguf"
    assert blueprint.footprint("gguf") == open_model(path).footprint("gguf")


def test_a_config_of_a_published_model_counts_the_part_for_images(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SCOUT))
    blueprint = read_blueprint(tmp_path)
    assert blueprint.vision_parameters == 871_932_416
    assert blueprint.footprint("bf16").total_parameters == 107_769_861_120


def test_a_hub_id_is_planned_when_its_config_alone_is_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFound, match=r"hf download org/scout config\.json"):
        read_blueprint("org/scout")
    snapshot = tmp_path / "models--org--scout" / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--scout" / "refs").mkdir()
    (tmp_path / "models--org--scout" / "refs" / "main").write_text("abc123")
    (snapshot / "config.json").write_text(json.dumps(SCOUT))
    assert read_blueprint("org/scout").expert_count == 16


@pytest.mark.parametrize(
    ("config", "error", "told"),
    [
        ({"model_type": "gpt2"}, UnsupportedModel, "gpt2"),
        ({**SCOUT, "vision_config": 3}, CheckpointError, "vision_config is 3"),
        ({**SCOUT, "vision_config": {"hidden_size": -1}}, UnsupportedModel, "vision_config.hidden_size is -1"),
        ({**SCOUT, "vision_config": {"patch_size": True}}, UnsupportedModel, "vision_config.patch_size is True"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(
    tmp_path: Path, config: dict[str, object], error: type[Exception], told: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=told):
        read_blueprint(tmp_path)


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "", "a/b/c"])
def test_what_is_no_model_is_told(name: str) -> None:
    with pytest.raises(ModelNotFound):
        read_blueprint(name)


def test_another_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"x")
    with pytest.raises(ModelNotFound, match="is a file"):
        read_blueprint(path)


def test_a_scheme_that_is_not_known_is_told() -> None:
    with pytest.raises(SettingsError, match="w2a2"):
        read_blueprint("demo").footprint("w2a2")
