"""The small trained model that ships with the package; model/README.md tells what it can do."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def data_folder() -> Path:
    """Where the model and its held-out questions lie."""
    return Path(str(resources.files(__package__)))


def model_folder() -> Path:
    """Folder of the demo checkpoint, an ordinary Hugging Face folder."""
    return data_folder() / "model"
