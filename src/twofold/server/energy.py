"""Joules the processor counts itself (RAPL), through Linux's powercap. What cannot be read is said, never guessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path("/sys/class/powercap")
COUNTED = ("package", "dram")
"""Domains that do not overlap: core and uncore lie within the package, psys around it."""


@dataclass
class Domain:
    """One counter: microjoules that start again at `range_uj`."""

    name: str
    path: Path
    range_uj: int
    last_uj: int
    joules: float = 0.0

    def advance(self) -> None:
        """Add what was used since the last reading. Raises OSError or ValueError."""
        now_uj = int(self.path.read_text())
        self.joules += (now_uj - self.last_uj) % (self.range_uj + 1) / 1e6
        self.last_uj = now_uj


@dataclass
class Energy:
    """Joules since construction by domain. reason: why nothing is measured, "" when it is.

    A counter that runs around twice between two readings loses a round: at 200 W that takes a good twenty minutes,
    so scrape more often than that.
    """

    root: Path = ROOT
    reason: str = ""
    domains: list[Domain] = field(default_factory=list)

    def __post_init__(self) -> None:
        found = sorted(self.root.glob("intel-rapl:*")) if self.root.is_dir() else []
        try:
            self.domains = [domain for path in found if (domain := open_domain(path))]
        except PermissionError as error:
            self.reason = f"{error.filename} may be read by root only"
        except (OSError, ValueError) as error:
            self.reason = f"the energy counters cannot be read: {error}"
        if not self.domains and not self.reason:
            self.reason = f"this machine shows no energy counters under {self.root}"

    def joules(self) -> dict[str, float]:
        """Joules of each domain until now; {} and a reason when they can no longer be read."""
        try:
            for domain in self.domains:
                domain.advance()
        except (OSError, ValueError) as error:
            self.domains, self.reason = [], f"the energy counters can no longer be read: {error}"
        return {domain.name: domain.joules for domain in self.domains}


def open_domain(path: Path) -> Domain | None:
    """The counter in a folder like intel-rapl:0 or intel-rapl:0:2; None for one that lies within another.

    Raises OSError or ValueError.
    """
    name = (path / "name").read_text().strip()
    if not name.startswith(COUNTED):
        return None
    outer = path.name.rpartition(":")[0]
    if outer.count(":"):  # the memory of one package
        name = f"{(path.parent / outer / 'name').read_text().strip()}-{name}"
    counter = path / "energy_uj"
    range_uj = int((path / "max_energy_range_uj").read_text())
    return Domain(name=name, path=counter, range_uj=range_uj, last_uj=int(counter.read_text()))
