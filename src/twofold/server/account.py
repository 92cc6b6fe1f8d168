"""What one request took: for its usage, when it asks, and for the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twofold.server.serving import Job


def usage_details(job: Job) -> dict[str, Any]:
    """The `details` of a request's usage.

    engine_seconds: its rows' share of the seconds of the steps it took part in. queue_seconds: from its arrival to its
    first step. cost and currency: what those engine seconds cost, None without a price; time in which the engine had
    nothing to do is in nobody's cost.
    """
    price = job.serving.metrics.facts.price
    seconds = sum(job.stream.spent_s.values())
    return {
        "engine_seconds": round(seconds, 6),
        "queue_seconds": round(queue_s(job), 6),
        "cost": None if price is None else float(f"{price.of(seconds):.6g}"),
        "currency": None if price is None else price.currency,
    }


def log_fields(job: Job) -> dict[str, Any]:
    """What the log tells of a request that has ended, in whichever way. Numbers and names only, never text."""
    firsts = [choice.first_s for choice in job.choices if choice.first_s is not None]
    usage = job.usage
    return {
        "prompt_tokens": usage["prompt_tokens"],
        "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        "answer_tokens": usage["completion_tokens"],
        "queue_s": round(queue_s(job), 4) if job.stream.started_s else None,
        "first_token_s": round(min(firsts) - job.ask.arrived_s, 4) if firsts else None,
        "finish": ",".join(sorted({choice.finish or job.failed or "cancelled" for choice in job.choices})),
    }


def queue_s(job: Job) -> float:
    """Seconds from the arrival of a request to its first step, 0 before that."""
    started = job.stream.started_s.values()
    return min(started) - job.ask.arrived_s if started else 0.0
