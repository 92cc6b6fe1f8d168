"""What requests say of a prompt that is judged token by token, and how its judgements are told."""

from __future__ import annotations

from typing import Any

from twofold.ops.types import Drawn
from twofold.server.problems import Problem
from twofold.server.schema import CompletionRequest, Sampled
from twofold.server.serving import Job
from twofold.text.tokenizer import Tokenizer

Json = dict[str, Any]


def read_judging(asked: Sampled) -> int | None:
    """How many alternatives per token of the prompt; None when it need not be judged. Raises Problem for a stream."""
    if asked.prompt_logprobs is not None and asked.stream:
        raise Problem(400, "prompt_logprobs come with a whole answer only; leave out stream", param="prompt_logprobs")
    wanted = [asked.prompt_logprobs]
    if isinstance(asked, CompletionRequest) and asked.echo:
        wanted.append(asked.logprobs)
    return max((count for count in wanted if count is not None), default=None)


def read_length(asked: CompletionRequest) -> int:
    """max_tokens of a completion. Raises Problem for 0 where nothing else is asked for."""
    if asked.max_tokens == 0 and not asked.echo and asked.prompt_logprobs is None:
        raise Problem(400, "max_tokens may be 0 only with echo or prompt_logprobs", param="max_tokens")
    return 16 if asked.max_tokens is None else asked.max_tokens


def read_echoes(asked: CompletionRequest, prompts: list[list[int]], tokenizer: Tokenizer) -> tuple[str, ...]:
    """The text of each prompt, where the answer begins with it."""
    return tuple(tokenizer.decode(prompt) for prompt in prompts) if asked.echo else ()


def prompt_logprobs(job: Job, index: int, count: int) -> list[Json | None]:
    """vLLM's shape for the prompt of a choice: by id, each token and so many alternatives; None for the first."""
    tokenizer = job.serving.model.tokenizer
    return [None, *(judged_token(tokenizer, score, count) for score in job.choices[index].scores)]


def judged_token(tokenizer: Tokenizer, score: Drawn, count: int) -> Json:
    """One token of a prompt and what might have been there; ranks count from 1."""

    def entry(token: int, logprob: float | None, rank: int | None) -> Json:
        text = tokenizer.token_bytes(token).decode("utf-8", "replace")
        return {"logprob": logprob, "rank": rank, "decoded_token": text}

    best = enumerate(score.alternatives[:count], start=1)
    return {
        str(score.token): entry(score.token, score.logprob, score.rank),
        **{str(token): entry(token, value, rank) for rank, (token, value) in best if token != score.token},
    }
