"""How large the part of Llama 4 that reads images is: it is in the published files, though we do not run it."""

from __future__ import annotations

from collections.abc import Mapping

from twofold.errors import UnsupportedModel

PUBLISHED = {
    "hidden_size": 1408,
    "num_hidden_layers": 34,
    "intermediate_size": 5632,
    "image_size": 336,
    "patch_size": 14,
    "num_channels": 3,
    "pixel_shuffle_ratio": 0.5,
    "projector_input_dim": 4096,
    "projector_output_dim": 4096,
    "vision_output_dim": 4096,
}
"""What Scout, Maverick and Guard 4 have; a config may leave any of it out."""


def vision_parameters(config: Mapping[str, object], text_hidden: int) -> int:
    """Parameters of tower, adapter and projector; UnsupportedModel for a size that is no number above 0."""
    size = {key: positive(config, key) for key in PUBLISHED}
    hidden, width = size["hidden_size"], size["intermediate_size"]
    patch = size["num_channels"] * size["patch_size"] ** 2
    positions = (size["image_size"] // size["patch_size"]) ** 2 + 1
    attention = 4 * (hidden * hidden + hidden)
    feed_forward = 2 * hidden * width + width + hidden
    norms = 2 * 2 * hidden
    tower = size["num_hidden_layers"] * (attention + feed_forward + norms)
    around = hidden * patch + hidden + positions * hidden + norms  # patches, class, positions, norms before and after
    shuffled = hidden / size["pixel_shuffle_ratio"] ** 2
    adapter = shuffled * size["projector_input_dim"] + size["projector_input_dim"] * size["projector_output_dim"]
    return round(tower + around + adapter + size["vision_output_dim"] * text_hidden)


def positive(config: Mapping[str, object], key: str) -> float:
    """A size from the config, or the published one."""
    value = config.get(key, PUBLISHED[key])
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**31:
        raise UnsupportedModel(f"config.json: vision_config.{key} is {value!r}; a number above 0 was expected")
    return value
