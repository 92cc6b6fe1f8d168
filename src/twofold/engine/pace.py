"""How many rows of prompts a step takes while others decode, so that their tokens keep coming.

A step that reads 512 tokens of somebody's prompt takes many times as long as one that draws a token for each of the
others. While any sequence decodes, prompts get what fits into a target time:

    rows = (seconds for reading) / (seconds a row of a prompt adds to a step, measured)
    seconds for reading = the larger of (target - a step without prompts, a step without prompts)

so where decoding alone fills the target, reading still gets half of the time, and never fewer than FLOOR_ROWS rows.
What a row adds depends on how many there are and on how long the text before them is; it is measured at the number
that was chosen, so the choice corrects itself.
"""

from __future__ import annotations

FLOOR_ROWS = 16
"""A piece of a prompt is never shorter, whatever the measurements say."""
MEMORY = 0.7
"""How much an average keeps of what it was at each observation."""


class Pace:
    """Learns what steps take. target_s: seconds a step may take beside decoding sequences; 0 sets no limit."""

    def __init__(self, target_s: float) -> None:
        self.target_s = target_s
        self.decode_s = 0.0
        self.row_s = 0.0

    @property
    def rows(self) -> int | None:
        """Most rows of prompts in the next step, if anything decodes; None for no limit (or nothing measured)."""
        if not self.target_s or not self.row_s:
            return None
        return max(FLOOR_ROWS, int(max(self.target_s - self.decode_s, self.decode_s) / self.row_s))

    def reading_s(self, rows: int) -> float:
        """Seconds that so many rows of prompts add to a step."""
        return rows * self.row_s

    def learn(self, rows: int, decoding: int, seconds: float) -> None:
        """Take over a step with so many rows of prompts beside so many decoding sequences."""
        if not rows:
            self.decode_s = mixed(self.decode_s, seconds)
        elif rows >= FLOOR_ROWS or not self.row_s:
            beside_s = self.decode_s if decoding else 0.0
            self.row_s = mixed(self.row_s, max(seconds - beside_s, 0.1 * seconds) / rows)


def mixed(average: float, value: float) -> float:
    """The average with one more observation; the first is taken as it is."""
    return MEMORY * average + (1 - MEMORY) * value if average else value
