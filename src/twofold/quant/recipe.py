"""What a quantised folder is to be made like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from twofold.errors import SettingsError
from twofold.quant.schemes import MIXED

METHODS = ("gptq", "round")
TRANSFORMS = ("none", "rotate", "smooth")


@dataclass(frozen=True)
class Recipe:
    """scheme: schemes.QUANTISED. method: METHODS. calibration: a text file or JSON lines (text.rows), which gptq, the
    scheme mixed and the transform "smooth" need. budget: what mixed may take (quant.budget), None for the bytes of
    w4a8. transform: TRANSFORMS, folded into the weights first.

    Raises SettingsError for what is not known, or cannot be had together.
    """  # fmt: skip

    scheme: str
    method: str = "gptq"
    calibration: Path | None = None
    budget: str | None = None
    transform: str = "none"

    def __post_init__(self) -> None:
        for name, value, known in (("method", self.method, METHODS), ("transform", self.transform, TRANSFORMS)):
            if value not in known:
                raise SettingsError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
        if self.scheme == MIXED and self.transform != "none":
            raise SettingsError(
                "the scheme mixed measures damage on the weights as they are, so it cannot be combined with transform "
                f"{self.transform!r} yet; leave one of the two out"
            )

    @property
    def runs_layers(self) -> bool:
        """Whether layers are quantised by what calibration text gives them."""
        return self.method == "gptq" or self.transform == "smooth"

    @property
    def needs_text(self) -> bool:
        """Whether anything looks at calibration text; mixed measures on it before."""
        return self.runs_layers or self.scheme == MIXED
