"""Names in a recipe or on the command line -> the parts they mean. A table to read, imported on use."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cacherl.augment import ChatReasoner, FunctionReasoner, Reasoner
from cacherl.cache.lookup.settings import Settings
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.safety.sensitive import Profile
from cacherl.cache.storage.sqlite import Mode
from cacherl.core.errors import MissingExtraError, ModelError, RecipeError
from cacherl.core.models import ChatModel
from cacherl.core.worlds import World
from cacherl.experiment import EvaluateSection, Recipe, WorldSection
from cacherl.render import ChatCodec, Template
from cacherl.teacher.chat import EndpointChat
from cacherl.teacher.options import Endpoint, TeacherOptions
from cacherl.token_chat import Engine, TokenChat

if TYPE_CHECKING:
    from cacherl.adapters.trl_trainer import TRLTrainer
    from cacherl.core.hubs import Hub
    from cacherl.core.sources import ToolSource
    from cacherl.core.suites import Suite
    from cacherl.core.tasks import Task
    from cacherl.reward.answer import Judge
    from cacherl.toolbox.config import McpSection, OpenApiSection, PythonSection, ToolsFile
    from cacherl.toolbox.world import ToolboxWorld


def _desk(section: WorldSection) -> World:
    from cacherl.worlds.desk import DeskWorld

    return DeskWorld(section.families)


def _bfcl(section: WorldSection) -> World:
    from cacherl.suites.bfcl import BfclSuite, BfclWorld

    return BfclWorld(BfclSuite(categories=section.families))


WORLDS: dict[str, Callable[[WorldSection], World]] = {"desk": _desk, "bfcl": _bfcl}
"""World name -> how to open it."""


def world_of(section: WorldSection) -> World:
    """Return the world a recipe names, or its own tools with its own tasks.

    Raises:
        RecipeError: there is no such world.
    """
    if section.tools:
        return toolbox_world(Path(section.tools), Path(section.tasks))
    if section.name not in WORLDS:
        raise RecipeError(
            f"world.name = {section.name!r}: no such world. There are: {', '.join(WORLDS)}."
        )
    return WORLDS[section.name](section)


def _desk_suite(variant: str) -> Suite:
    from cacherl.suites.desk import DeskSuite
    from cacherl.worlds.desk import DeskExpert, DeskWorld

    if variant and not variant.isdecimal():
        raise RecipeError(f"desk:{variant}: name the number of tools in a prompt, such as desk:50.")
    world = DeskWorld(tools=int(variant) if variant else None)
    name = f"desk:{int(variant)}" if variant else "desk"
    return DeskSuite(world, DeskExpert(detour=0.0), name=name)


def _bfcl_suite(variant: str) -> Suite:
    from cacherl.suites.bfcl import BfclSuite

    return BfclSuite(categories=(variant,) if variant else ())


def _acebench_suite(variant: str, *, scripted: bool = False) -> Suite:
    from cacherl.suites.named import acebench

    return acebench(variant, _user_chat, scripted=scripted)


def _user_chat(name: str, temperature: float) -> ChatModel:
    if not names_endpoint(name):
        raise RecipeError(f'user={name}: name a model to play the user, as "openai:gpt-4o".')
    options = TeacherOptions(temperature=temperature)
    return paid_model(name, journal=None, options=options, purpose="user")


def _tau_suite(kind: str) -> Callable[[str], Suite]:
    def opened(variant: str) -> Suite:
        from cacherl.suites.named import tau

        return tau(kind, variant)

    return opened


def _own_suite(variant: str) -> Suite:
    from cacherl.suites.named import own

    return own(variant, toolbox_world, _judge)


def _judge(name: str) -> Callable[[], contextlib.AbstractAsyncContextManager[Judge]]:
    from cacherl.reward.judge import ChatJudge

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Judge]:
        paid = paid_model(name, journal=None, purpose="judge")
        try:
            yield ChatJudge(paid)
        finally:
            await paid.aclose()

    return opened


SUITES: dict[str, Callable[[str], Suite]] = {
    "desk": _desk_suite,
    "bfcl": _bfcl_suite,
    "acebench": _acebench_suite,
    "acebench-scripted": lambda variant: _acebench_suite(variant, scripted=True),
    "tau": _tau_suite("tau"),
    "tau2": _tau_suite("tau2"),
    "own": _own_suite,
}
"""Suite name -> how to open it, with what follows a colon in the name: `desk:50`, `bfcl:base`."""


def suite_of(name: str) -> Suite:
    """Return the suite of a name.

    Raises:
        RecipeError: there is no such suite, or it has no such variant.
        DataError: what it needs was not added to this machine.
    """
    kind, _, variant = name.partition(":")
    if kind not in SUITES and name.endswith(".toml"):
        kind, variant = "own", name
    if kind not in SUITES:
        raise RecipeError(f"{name!r}: no such suite. There are: {', '.join(SUITES)}.")
    return SUITES[kind](variant)


def open_cache(
    name: str,
    *,
    mode: Mode = "read",
    settings: Settings | None = None,
    redact: Profile | None = None,
) -> ToolCache:
    """Open a cache by name: a file, a frozen snapshot, `:memory:`, or `redis://host:port/db?prefix=...`.

    Arguments as `ToolCache.open`.

    Raises:
        CacheError: there is no such cache (read), it is damaged, newer or something else.
        MissingExtraError: it is on a server, and the package redis is not installed.
    """
    if "://" not in name:
        return ToolCache.open(name, mode=mode, settings=settings, redact=redact)
    try:
        from cacherl.adapters.redis_store import RedisStore
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "redis", "redis") from error
    store = RedisStore(name, mode=mode)
    return ToolCache.on(store, name=store.name, settings=settings, redact=redact)


def _desk_expert(detour: float, seed: int) -> ChatModel:
    from cacherl.worlds.desk import DeskExpert

    return DeskExpert(detour=detour, seed=seed)


EXPERTS: dict[str, Callable[[float, int], ChatModel]] = {
    "desk": _desk_expert,
    "bfcl": lambda detour, seed: suite_of("bfcl").oracle(),
}
"""World name -> who plays it by a script, by detour and seed. BFCL's gold takes no detours."""


def policy_of(recipe: Recipe) -> ChatModel:
    """Return who records: the world's scripted expert or gold, or a model behind an endpoint.

    Raises:
        RecipeError: there is no such policy.
    """
    name, record = recipe.record.policy, recipe.record
    if name == "expert" and _has_expert(recipe):
        return EXPERTS[recipe.world.name](record.detour, record.seed)
    if names_endpoint(name):
        return endpoint(name)
    raise RecipeError(
        f'record.policy = {name!r}: no such policy. Use "expert" with desk or bfcl, or '
        '"PROVIDER:MODEL" (such as "openai:gpt-5") or "openai:MODEL@URL".'
    )


def _has_expert(recipe: Recipe) -> bool:
    return not recipe.world.tools and recipe.world.name in EXPERTS


def gold_expert(recipe: Recipe) -> ChatModel:
    """Return the expert that takes no detours: what fills the cache of the held-out evaluation."""
    if _has_expert(recipe):
        return EXPERTS[recipe.world.name](0.0, recipe.record.seed)
    return policy_of(recipe)


def reasoner_named(
    name: str,
    *,
    journal: Path | None,
    options: TeacherOptions | None = None,
    max_tokens: int = 4096,
) -> tuple[Reasoner, EndpointChat | None]:
    """Return who writes the reasons, and the paid model behind it, where there is one, to be closed.

    Args:
        name: `desk` (the desk's own script) or as `paid_model`.
        journal: as `paid_model`.
        options: as `paid_model`.
        max_tokens: of one answer.

    Raises:
        RecipeError: there is no such reasoner; else as `paid_model`.
    """
    if name == "desk":
        from cacherl.worlds.desk import explain

        return FunctionReasoner(explain, name="desk"), None
    if names_endpoint(name):
        paid = paid_model(name, journal=journal, options=options, purpose="augment")
        return ChatReasoner(paid, max_tokens=max_tokens), paid
    raise RecipeError(
        f'{name!r}: no such teacher. Use "PROVIDER:MODEL" (such as "openai:gpt-5"), '
        '"openai:MODEL@URL", or "desk" for what was recorded on the desk.'
    )


def names_endpoint(name: str) -> bool:
    """Return whether the name is a model behind an endpoint: `PROVIDER:MODEL` or `PROVIDER:MODEL@URL`."""
    return re.match(r"[a-z][a-z0-9_]*:.", name) is not None and not Path(name).exists()


def paid_model(
    name: str,
    *,
    journal: Path | None,
    options: TeacherOptions | None = None,
    purpose: str = "chat",
) -> EndpointChat:
    """Return the model behind an endpoint, with journal, retries, budget, pace and ledger around it.

    Args:
        name: `PROVIDER:MODEL` (`openai:gpt-5`, `anthropic:...`, `deepseek:...`, any provider of any-llm) or
            `PROVIDER:MODEL@URL` (any OpenAI-compatible server is `openai:MODEL@URL`).
        journal: the folder of the journal and of `ledger.json`; None keeps neither.
        options: how to ask, and how much it may cost.
        purpose: what the requests are for: `record`, `augment`, `judge`.

    Raises:
        RecipeError: no such name or provider, an option is wrong, or another process has the journal.
        DataError: the journal is damaged, or the file of prices cannot be read.
        MissingExtraError: the client library is not installed.
    """
    try:
        from cacherl.adapters.any_llm_completions import AnyLLMBatches, AnyLLMCompletions
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "any-llm-sdk", "teacher") from error
    from cacherl.teacher.assemble import assemble

    options = options or TeacherOptions()
    found = Endpoint.parse(name)

    how: dict[str, Any] = {"timeout_s": options.timeout_s, "api_key_env": options.api_key_env}
    # Made here once: an unknown provider, or one without batches, is told before any work starts.
    (AnyLLMBatches if options.batch else AnyLLMCompletions)(found, **how)
    return assemble(
        found,
        lambda: AnyLLMCompletions(found, **how),
        lambda: AnyLLMBatches(found, **how),
        journal=journal,
        options=options,
        purpose=purpose,
    )


def missing_key(name: str) -> str | None:
    """Return the environment variable that a paid model's key is read from, if it is not set.

    Raises as `paid_model`; nothing is asked.
    """
    try:
        from cacherl.adapters.any_llm_completions import AnyLLMCompletions
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "any-llm-sdk", "teacher") from error
    return AnyLLMCompletions(Endpoint.parse(name)).missing_key()


def endpoint(name: str) -> EndpointChat:
    """Return the model behind an endpoint, without a journal."""
    return paid_model(name, journal=None)


def model_path(path: str, beside: Path | None = None) -> str:
    """Return the model as a loader takes it: a folder where there is one, else the name as it is.

    Raises:
        ModelError: it looks like a folder and there is none.
    """
    candidates = [Path(path)] + ([beside / path, beside.parent / path] if beside else [])
    for candidate in candidates:
        if candidate.is_dir():
            return str(candidate)
    if path.startswith((".", "/", "runs/", "models/")):
        raise ModelError(
            f"{path}: no such model folder. Build the tiny base with `make tiny-base`, or name a "
            "Hugging Face id."
        )
    return path


def token_counter(name: str) -> Callable[[str], int]:
    """Return how many tokens a text is for a model: a folder, a tokenizer.json, or a Hugging Face id."""
    try:
        from cacherl.adapters.token_counter import token_counter as counter
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "tokenizers", "train") from error
    return counter(model_path(name))


def hub() -> Hub:
    """Return the hub of models and data sets: Hugging Face's, or what HF_ENDPOINT says.

    Raises:
        MissingExtraError: its client is not installed.
    """
    try:
        from cacherl.adapters.hub import HuggingFaceHub
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "huggingface_hub", "hub") from error
    return HuggingFaceHub()


def _engine_module() -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the package is imported
    try:
        from cacherl.adapters import transformers_engine
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train") from error
    return transformers_engine


def codec_of(path: str, template: Template) -> ChatCodec:
    """Return the codec of a model's tokenizer, without loading its weights."""
    module = _engine_module()
    return ChatCodec(module.load_tokenizer(path), template)


def local_chat(
    path: str, template: Template, evaluate: EvaluateSection, *, name: str | None = None
) -> TokenChat:
    """Load a model and return it ready to talk.

    Raises:
        ModelError: it cannot be loaded.
        MissingExtraError: torch or transformers is not installed.
    """
    if not Path(path).is_dir():
        _check_on_hub(path)
    module = _engine_module()
    model, tokenizer = module.load(path)
    greedy = evaluate.temperature == 0
    engine = module.TransformersEngine(
        model,
        tokenizer,
        temperature=1.0 if greedy else evaluate.temperature,
        top_p=evaluate.top_p,
        top_k=evaluate.top_k,
        greedy=greedy,
        max_batch=evaluate.max_batch,
        seed=evaluate.seed,
        name=name,
    )
    return TokenChat(engine, ChatCodec(tokenizer, template))


def _check_on_hub(name: str) -> None:
    """Raise unless the hub has the model: found out before torch is imported, and without its loader's waits."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from cacherl.adapters.hub_models import check_model
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "huggingface_hub", "train") from error
    check_model(name)


def chat_of(
    name: str, template: Template, evaluate: EvaluateSection, *, called: str | None = None
) -> ChatModel:
    """Return a model by name: `PROVIDER:MODEL[@URL]`, `expert`, a folder, or a Hugging Face id."""
    if names_endpoint(name):
        return endpoint(name)
    if name == "expert":
        from cacherl.worlds.desk import DeskExpert

        return DeskExpert(detour=0.0)
    return local_chat(model_path(name), template, evaluate, name=called)


def trainer_of(recipe: Recipe) -> TRLTrainer:
    """Return the trainer, with an engine for its rollouts."""
    module = _engine_module()
    try:
        from cacherl.adapters.trl_trainer import TRLTrainer
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "trl", "train") from error

    def make_engine(model: Any) -> Engine:
        engine: Engine = module.TransformersEngine(
            model,
            temperature=recipe.grpo.temperature,
            max_batch=recipe.evaluate.max_batch,
            seed=recipe.grpo.seed,
            name="policy",
        )
        return engine

    return TRLTrainer(make_engine)


def prepare_cpu(threads: int) -> None:
    """Let torch use this many CPU threads; 0 leaves it its own choice."""
    _engine_module().prepare_cpu(threads)


# ---- evaluation --------------------------------------------------------------------------------


def player_of(
    name: str,
    suite: Suite,
    template: Template,
    evaluate: EvaluateSection,
    *,
    journal: Path | None = None,
    options: TeacherOptions | None = None,
) -> tuple[ChatModel, EndpointChat | None]:
    """Return who plays a suite, and the paid model behind it, where there is one, to be closed.

    Args:
        name: `oracle` (the suite's gold), `expert` (the desk's own script), `nothing`, `PROVIDER:MODEL[@URL]`, a
            folder, or a Hugging Face id.
        suite: what is played.
        template: of a local model.
        evaluate: how a local model is sampled.
        journal: where a paid model's replies are kept.
        options: how a paid model is asked, and how much it may cost.

    Raises:
        RecipeError: no such player.
        ModelError: the model is not there.
    """
    if name == "nothing":
        from cacherl.suites.nothing import nothing

        return nothing(), None
    if name == "oracle":
        return suite.oracle(), None
    if name == "expert" and not suite.info.name.startswith("desk"):
        raise RecipeError(
            f"expert is the script of the desk; the gold of {suite.info.name} is played by `oracle`."
        )
    if names_endpoint(name):
        paid = paid_model(name, journal=journal, options=options, purpose="eval")
        return paid, paid
    return chat_of(name, template, evaluate, called=name), None


# ---- live tools --------------------------------------------------------------------------------


def toolbox_world(
    path: Path, tasks: Path | None = None, *, scenario: str | None = None
) -> ToolboxWorld:
    """Return the tools of a `tools.toml`, with the tasks of a file. Nothing is started yet.

    Args:
        path: the `tools.toml`.
        tasks: a file that `written_tasks` can read; without one the world has no tasks.
        scenario: over the file's own.

    Raises:
        RecipeError: the file is wrong, or a `${VAR}` of it is not set.
        MissingExtraError: a package that its sources need is not installed.
    """
    from cacherl.toolbox.config import read_tools

    return live_tools(read_tools(path), path, tasks, scenario=scenario)


def live_tools(
    tools: ToolsFile,
    path: Path,
    tasks: Path | None = None,
    *,
    scenario: str | None = None,
    on_open: Callable[[ToolSource], None] | None = None,
) -> ToolboxWorld:
    """Return what a `tools.toml` says as a world.

    Args:
        tools: what it says.
        path: the file: its folder is where relative paths start, its name stands in errors.
        tasks: see `toolbox_world`.
        scenario: see `toolbox_world`.
        on_open: told of every source before it starts.
    """
    from cacherl.toolbox.world import Place, ToolboxWorld

    def opening(open_: Callable[[str], ToolSource]) -> Callable[[str], ToolSource]:
        def opened(scenario: str) -> ToolSource:
            source = open_(scenario)
            if on_open is not None:
                on_open(source)
            return source

        return opened

    sections: dict[str, McpSection | PythonSection | OpenApiSection] = {
        **tools.mcp,
        **tools.python,
        **tools.openapi,
    }
    places = []
    for name, section in sections.items():
        open_, by_scenario = _source(name, section, path)
        places.append(
            Place(
                name=name,
                open=opening(open_),
                by_scenario=by_scenario,
                prefix=section.prefix,
                resets=section.resets,
            )
        )
    world = ToolboxWorld(
        places,
        namespace=tools.namespace,
        resets=tools.resets,
        policy=tools.policy,
        rules=tools.tools,
        tasks=(lambda: written_tasks(tasks, world)) if tasks is not None else (),
        list_scenario=tools.scenario if scenario is None else scenario,
    )
    return world


def written_tasks(
    path: Path, world: ToolboxWorld, *, system: str | None = None, language: str | None = None
) -> list[Task]:
    """Return the tasks of a person's file, for the tools of a world.

    Args:
        path: `.jsonl`, `.txt` or `.csv`; see `toolbox.written_tasks`.
        world: lists its tools, which may start servers.
        system: what the model is told, for tasks that do not say.
        language: of tasks that name none.

    Raises:
        DataError: a line cannot be used; says which and why.
        ToolError: the tools cannot be listed.
    """
    from cacherl.toolbox.written_tasks import SYSTEM, UNDETERMINED, read_tasks

    return read_tasks(
        path,
        namespace=world.namespace,
        tools=world.specs,
        system=SYSTEM if system is None else system,
        scenario=world.list_scenario,
        language=UNDETERMINED if language is None else language,
    )


def _source(
    name: str, section: McpSection | PythonSection | OpenApiSection, path: Path
) -> tuple[Callable[[str], ToolSource], bool]:
    """Return how to open one source, and whether it differs between scenarios."""
    from cacherl.toolbox.config import McpSection, PythonSection

    match section:
        case PythonSection():
            from cacherl.toolbox.functions import FunctionSource

            python = section
            # Cheap to open, and `open_tools` may look at the scenario.
            return (
                lambda scenario: FunctionSource(
                    name,
                    python.module,
                    folder=path.parent,
                    scenario=scenario,
                    only=python.only,
                )
            ), True
        case McpSection():
            return _mcp_source(name, section, path)
        case _:
            return _openapi_source(name, section, path)


def _mcp_source(
    name: str, section: McpSection, path: Path
) -> tuple[Callable[[str], ToolSource], bool]:
    from cacherl.toolbox.config import filled, secrets_in

    try:
        from cacherl.adapters.mcp_tools import McpServer, McpSource
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "mcp", "mcp") from error

    def fill(text: str, key: str) -> str:
        return filled(text, os.environ, f"{path}: mcp.{name}.{key}")

    folder = path.parent.resolve()
    command = None if section.command is None else fill(section.command, "command")
    if command is not None and "/" in command:
        command = str(folder / command)
    texts = (section.url or "", *section.args, *section.env.values(), *section.headers.values())
    server = McpServer(
        name=name,
        command=command,
        args=tuple(fill(each, "args") for each in section.args),
        env={key: fill(value, f"env.{key}") for key, value in section.env.items()},
        cwd=None if command is None else str(folder / fill(section.cwd or "", "cwd")),
        url=None if section.url is None else fill(section.url, "url"),
        headers={key: fill(value, f"headers.{key}") for key, value in section.headers.items()},
        only=section.only,
        start_timeout_s=section.start_timeout_s,
        secrets=secrets_in(texts, os.environ),
    )
    return (lambda scenario: McpSource(server, scenario=scenario)), server.by_scenario


def _openapi_source(
    name: str, section: OpenApiSection, path: Path
) -> tuple[Callable[[str], ToolSource], bool]:
    from cacherl.toolbox.config import filled, secrets_in

    try:
        from cacherl.adapters.openapi_tools import OpenApiSource
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "httpx", "http") from error

    def fill(text: str, key: str) -> str:
        return filled(text, os.environ, f"{path}: openapi.{name}.{key}")

    sent = {**section.headers, **section.query}
    spec, server = fill(section.spec, "spec"), fill(section.server or "", "server")
    headers = {key: fill(value, f"headers.{key}") for key, value in section.headers.items()}
    query = {key: fill(value, f"query.{key}") for key, value in section.query.items()}
    secrets = secrets_in((section.spec, *sent.values()), os.environ)
    by_scenario = any("{scenario}" in text for text in (server, *sent.values()))

    def open_(scenario: str) -> OpenApiSource:
        def here(text: str) -> str:
            return text.replace("{scenario}", scenario)

        return OpenApiSource(
            name,
            spec,
            folder=path.parent,
            server=here(server) or None,
            headers={key: here(value) for key, value in headers.items()},
            query={key: here(value) for key, value in query.items()},
            only=section.only,
            secrets=secrets,
        )

    return open_, by_scenario
