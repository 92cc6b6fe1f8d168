"""The small trained model that ships with the package; model/README.md tells what it can do."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def data_folder() -> Path:
    """Where the model and its held-out questions lie."""
    return Path(str(resources.files(__package__)))


def heldout_file() -> Path:
    """Conversations and prose the demo model has not seen, to judge models on."""
    return data_folder() / "heldout.jsonl"


def calibration_file() -> Path:
    """Conversations and prose of the same kinds, none of them held out, to calibrate quantisation on."""
    return data_folder() / "calibration.jsonl"


def model_folder() -> Path:
    """Folder of the demo checkpoint, an ordinary Hugging Face folder."""
    return data_folder() / "model"
