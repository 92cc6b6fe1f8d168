"""twofold serve: a model behind OpenAI's HTTP API."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from twofold.cli.generation import GENERATION, Generation, read_generation
from twofold.cli.options import LOADING, LOADING_NAMES, with_options
from twofold.cli.serving_options import SERVING, check_installed, read_session_limits, read_settings
from twofold.cli.watching_options import WATCHING, read_price, start_logging

if TYPE_CHECKING:
    from twofold.api import LLM
    from twofold.engine.sessions import Sessions
    from twofold.server.facts import Facts
    from twofold.server.serving import Serving
    from twofold.server.settings import ServerSettings


@click.command(
    epilog="Examples:  twofold serve demo  |  twofold serve meta-llama/Llama-3.2-1B-Instruct --dtype w4a8 --port 8080  "
    "|  TWOFOLD_API_KEY=... twofold serve ./model --host 0.0.0.0"
)
@click.argument("model")
@with_options(*SERVING, *GENERATION, *WATCHING, *LOADING)
def command(model: str, served_model_name: tuple[str, ...], **options: Any) -> None:
    """Serve MODEL (a folder, GGUF file, hub id, or "demo") over HTTP, with the API of OpenAI and vLLM's additions."""
    from twofold.phases import Phases

    phases = Phases()
    check_installed()
    from twofold.cli.session import load_with_progress
    from twofold.cli.starting import end_ranks, prepare, told, watch_ranks
    from twofold.keeping import open_sessions
    from twofold.server.app import build_app
    from twofold.server.run import bind, serve

    tell = start_logging(options)
    settings = read_settings(options)
    generation, price = read_generation(options), read_price(options)
    session_limits = read_session_limits(options["session_dir"], options["session_space"])
    listening = bind(settings)
    if not settings.api_keys and not settings.is_local:
        tell("warning: everyone who reaches this address can use the server; set --api-key")
    loading = {name: options[name] for name in LOADING_NAMES}
    sizes = {"max_sequences": options["max_num_seqs"], "step_tokens": options["max_num_batched_tokens"]}
    given = {name: value for name, value in sizes.items() if value is not None}
    phases.end("imports")
    llm = load_with_progress(model, tell, prefix_cache=True, max_step_ms=options["max_step_ms"], **loading, **given)
    phases.add(llm.loaded.phases)
    phases.end("engine")
    chosen = llm.loaded.settings
    kinds = f"{chosen.dtype}, {chosen.kv_cache_dtype} keys and values: {llm.loaded.kv_reason}"
    shared = "" if llm.loaded.ranks is None else f" by {llm.loaded.ranks.count} ranks"
    tell(f"loaded in {llm.loaded.load_seconds:.1f} s{shared} ({kinds})")
    facts = prepare(llm, installed_version(), price, phases)
    sessions = open_sessions(llm, options["session_dir"], session_limits) if options["session_dir"] else None
    serving = build_serving(llm, served_model_name or (model,), settings, generation, facts, sessions)
    tell(told(facts.phases))
    if price:
        tell(f"price: {price.per_hour:g} {price.currency} per hour ({price.name})")
    app = build_app(serving, installed_version())
    watch_ranks(llm, tell)
    serve(app, serving.runner, settings, listening, lambda url: click.echo(f"ready: {url}", err=True))
    end_ranks(llm)


def build_serving(
    llm: LLM,
    names: tuple[str, ...],
    settings: ServerSettings,
    generation: Generation,
    facts: Facts,
    sessions: Sessions | None,
) -> Serving:
    """A loaded model with its engine in a thread of its own."""
    from twofold.cli.starting import about
    from twofold.engine.runner import Runner, RunnerLimits
    from twofold.server.metrics import Metrics
    from twofold.server.quotas import Quotas
    from twofold.server.serving import Model, Serving, fingerprint
    from twofold.server.structure import Grammars

    loaded = llm.loaded
    metrics = Metrics(names[0], facts)
    limits = RunnerLimits(max_waiting=settings.max_waiting, buffered_tokens=settings.buffered_tokens)
    runner = Runner(llm.engine, limits, metrics.step, sessions)
    metrics.watch(runner)
    model = Model(
        names=names,
        tokenizer=llm.tokenizer,
        template=generation.template_of(loaded),
        eos_ids=loaded.model.eos_ids,
        defaults=generation.defaults_of(loaded),
        context=loaded.settings.context,
        created=int(time.time()),
        fingerprint=fingerprint([installed_version(), loaded.settings.dtype, loaded.model.folder.name]),
        about=about(llm),
    )
    grammars = Grammars(llm.tokenizer, loaded.model.eos_ids)
    quotas = Quotas(settings.key_requests_per_minute, settings.key_tokens_per_minute)
    return Serving(model=model, runner=runner, settings=settings, metrics=metrics, grammars=grammars, quotas=quotas)


def installed_version() -> str:
    """Version of twofold."""
    from twofold.cli.doctor import installed

    return installed("twofold")
