"""Steps that a device is asked for while it still runs the one in front.

Whoever asks for a step only when the one before has told its tokens leaves the device idle meanwhile, and the host
idle while the device runs. Most steps follow from the one in front without its tokens: the same sequences, one position
further. So such a step is launched at once, with tokens that are still on the device; then the one in front is waited
for and taken over, and what it drew decides how the next tokens are drawn. A sequence that turns out to have ended has
a row of no use in the step behind.

    launch n+1  |  wait for n, commit, deliver  |  how n+1 is drawn  |  launch n+2 ...
    device:        n ........................... n+1 .......................

Whatever changes who runs ends this: somebody waits for whom there may be a place, a prompt is to be read, blocks are
short, tokens are to be guessed. Then the step in flight is taken over first.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

from twofold.engine.plan import Plan, Slice
from twofold.engine.scheduler import Scheduler
from twofold.ops.types import Drawing


@dataclass(frozen=True, kw_only=True)
class Flight:
    """A step that was launched, and its tokens, which are being drawn."""

    plan: Plan
    drawing: Drawing


@dataclass(frozen=True, kw_only=True)
class Behind:
    """The step behind a plan. rows: the row of that plan's draws that each of its sequences goes on from."""

    plan: Plan
    rows: Many[int]


def plan_behind(plan: Plan, scheduler: Scheduler) -> Behind | None:
    """The step after one that draws once: all of its sequences that do not end with it for their length.

    None where another step might be due.
    """
    alive = [(row, item) for row, item in enumerate(plan.slices) if not item.sequence.is_over]
    if scheduler.may_admit or len(alive) < len(scheduler.running):
        return None
    slices, rows = [], []
    for row, item in alive:
        request = item.sequence.request
        if len(item.sequence.tokens) + 1 - len(request.prompt) >= request.max_tokens:
            continue
        if not scheduler.blocks.reserve(item.sequence, item.count + 1):
            return None
        slices.append(Slice(sequence=item.sequence, count=1, is_ahead=True))
        rows.append(row)
    return Behind(plan=Plan(slices=tuple(slices)), rows=rows) if slices else None
