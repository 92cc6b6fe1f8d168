"""The small trained model that ships with the package; see model/README.md for what it can do."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def model_folder() -> Path:
    """Folder of the demo checkpoint, an ordinary Hugging Face folder."""
    return Path(str(resources.files(__package__))) / "model"
