"""A recipe file, and the folder of its run.

A recipe is TOML: one table a stage, strict (an unknown key is an error that names it). A run folder holds
one folder a stage, each with a `stage.json` that says which settings and inputs it was made from; a
stage whose settings and inputs have not changed is up to date and is skipped.
"""

from __future__ import annotations

import enum
import hashlib
import os
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cacherl import __version__
from cacherl.augment import AugmentOptions
from cacherl.cache.episodes.ledger import MissPolicy
from cacherl.cache.lookup.settings import DrawPolicy
from cacherl.core.errors import DataError, RecipeError
from cacherl.core.jsonl import atomic_writer
from cacherl.core.models import Limits
from cacherl.core.records import Record
from cacherl.grpo import GRPOConfig
from cacherl.render import Template
from cacherl.reward.hybrid import Alphas, TrustBy
from cacherl.reward.process import ProcessWeights
from cacherl.select import SelectOptions
from cacherl.sft import SFTConfig

T = TypeVar("T")


class Stage(enum.StrEnum):
    """The stages, in order."""

    TASKS = "tasks"
    RECORD = "record"
    CACHE = "cache"
    AUGMENT = "augment"
    SELECT = "select"
    SFT = "sft"
    GRPO = "grpo"
    EVALUATE = "evaluate"
    REPORT = "report"


class ModelSection(Record, frozen=True, kw_only=True):
    """The model to train."""

    path: str
    """A folder or a Hugging Face id. A relative folder is looked for beside the recipe, then here."""
    template: Template = Template.QWEN3_THINKING_2507


class WorldSection(Record, frozen=True, kw_only=True):
    """Where tools and tasks come from."""

    name: str = "desk"
    """A world of `wiring.WORLDS`; counts for nothing where `tools` is set."""
    tools: str = ""
    """Your own tools: a `tools.toml`, beside the recipe or here."""
    tasks: str = ""
    """Your tasks for them (`toolbox.written_tasks`), beside the recipe or here."""
    families: tuple[str, ...] = ()
    """Task families to draw from; empty for all."""


class TasksSection(Record, frozen=True, kw_only=True):
    """How many tasks of which split."""

    train: int = 0
    """Recorded, and the source of both SFT data and the tasks of GRPO."""
    test: int = 0
    """Held out; only ever evaluated."""
    seed: int = 0
    evaluate_split: str = "test"
    """`test`, or `dev` while choosing settings."""


class RecordSection(Record, frozen=True, kw_only=True):
    """Who records."""

    policy: str = "expert"
    """The world's `expert`, or a model behind an endpoint: `openai:MODEL` or `openai:MODEL@URL`."""
    detour: float = 0.25
    """How often the scripted expert takes a worse path, in [0, 1]."""
    best_of: int = 1
    concurrency: int = 16
    seed: int = 0


class CacheSection(Record, frozen=True, kw_only=True):
    """How the cache answers in rollouts."""

    on_miss: MissPolicy = MissPolicy.ERROR
    on_miss_by_tool: dict[str, MissPolicy] = {}
    settings: str = ""
    """A file of what you say of the tools (`docs/cache.md`), beside the recipe; none if empty."""
    draw: DrawPolicy = DrawPolicy.SAMPLE
    """Which of several recorded answers a call gets, for tools of which `settings` says nothing."""


class AugmentSection(Record, frozen=True, kw_only=True):
    """Who writes the reasons."""

    reasoner: str = "desk"
    """The world's scripted teacher `desk`, or `openai:MODEL[@URL]`."""
    concurrency: int = 8


class SelectSection(Record, frozen=True, kw_only=True):
    """What is kept, and how much of it SFT sees."""

    per_task: int = 1
    combine: bool = True
    """Let the best of the rejected come back where a tool, a family or a length is rare."""
    tool_floor: int = 8
    tool_ceiling: float = 0.0
    family_floor: int = 8
    family_ceiling: float = 3.0
    length_floor: int = 0
    length_ceiling: float = 0.0
    near_duplicates: float = 0.0
    """0 finds exact duplicates only; see `select.SelectOptions`, as for all of these."""
    sft_share: float = 1.0
    """Share of the kept trajectories that SFT learns from, in (0, 1]; GRPO sees all tasks."""


class LimitsSection(Record, frozen=True, kw_only=True):
    """Bounds of an episode; see `core.models.Limits`."""

    max_turns: int = 8
    max_turn_tokens: int = 160
    max_context_tokens: int = 1536
    max_result_tokens: int = 256
    first_turn_min_tokens: int = 0

    def limits(self) -> Limits:
        """The same as the loop takes them."""
        return Limits(
            max_turns=self.max_turns,
            max_turn_tokens=self.max_turn_tokens,
            max_context_tokens=self.max_context_tokens,
            max_result_tokens=self.max_result_tokens,
            first_turn_min_tokens=self.first_turn_min_tokens,
        )


class RewardSection(Record, frozen=True, kw_only=True):
    """The answer's share by worst tier, and the shares of the process's parts."""

    trust: TrustBy = TrustBy.PAPER
    """`paper`: the answer's share is that of the worst tier; `calibrated`: that of EXACT times the chance
    that all observations are what live tools say (see `reward.hybrid`)."""
    alpha_exact: float = 0.60
    alpha_fuzzy: float = 0.30
    alpha_best_effort: float = 0.10
    format: float = 0.10
    schema: float = 0.10
    tool: float = 0.10
    arguments: float = 0.20
    order: float = 0.40
    no_leaked_thinking: float = 0.10
    superfluous: float = 0.20

    def alphas(self) -> Alphas:
        """The tiers' shares."""
        return Alphas(
            exact=self.alpha_exact, fuzzy=self.alpha_fuzzy, best_effort=self.alpha_best_effort
        )

    def weights(self) -> ProcessWeights:
        """The process's parts."""
        return ProcessWeights(
            format=self.format,
            schema=self.schema,
            tool=self.tool,
            arguments=self.arguments,
            order=self.order,
            no_leaked_thinking=self.no_leaked_thinking,
            superfluous=self.superfluous,
        )


class EvaluateSection(Record, frozen=True, kw_only=True):
    """How models are sampled when they are measured."""

    temperature: float = 0.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    max_batch: int = 128
    transcripts: int = 6
    """Held-out tasks whose transcripts stand in the report."""


class Recipe(Record, frozen=True, kw_only=True):
    """One run from tools and tasks to a report."""

    name: str
    out: str = ""
    """The run folder; `runs/<name>` where empty."""
    model: ModelSection
    world: WorldSection = WorldSection()
    tasks: TasksSection = TasksSection()
    """Not needed for `cacherl sft`, which learns from a data folder."""
    record: RecordSection = RecordSection()
    cache: CacheSection = CacheSection()
    augment: AugmentSection = AugmentSection()
    select: SelectSection = SelectSection()
    limits: LimitsSection = LimitsSection()
    sft: SFTConfig = SFTConfig()
    grpo: GRPOConfig = GRPOConfig()
    reward: RewardSection = RewardSection()
    evaluate: EvaluateSection = EvaluateSection()
    threads: int = 0
    """CPU threads for torch; 0 leaves torch's own choice."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.out) if self.out else Path("runs") / self.name

    def select_options(self) -> SelectOptions:
        """The select section as the stage takes it."""
        s = self.select
        return SelectOptions(
            per_task=s.per_task,
            combine=s.combine,
            tool_floor=s.tool_floor,
            tool_ceiling=s.tool_ceiling,
            family_floor=s.family_floor,
            family_ceiling=s.family_ceiling,
            length_floor=s.length_floor,
            length_ceiling=s.length_ceiling,
            near_duplicates=s.near_duplicates,
        )

    def augment_options(self) -> AugmentOptions:
        """The augment section as the stage takes it."""
        return AugmentOptions()


def _check(recipe: Recipe, where: str) -> None:
    faults = {
        "tasks.train": recipe.tasks.train < 0,
        "tasks.test": recipe.tasks.test < 0,
        "tasks.evaluate_split": recipe.tasks.evaluate_split not in ("test", "dev"),
        "record.detour": not 0 <= recipe.record.detour <= 1,
        "record.best_of": recipe.record.best_of < 1,
        "record.concurrency": recipe.record.concurrency < 1,
        "select.sft_share": not 0 < recipe.select.sft_share <= 1,
        "evaluate.temperature": recipe.evaluate.temperature < 0,
        "evaluate.top_p": not 0 < recipe.evaluate.top_p <= 1,
        "limits.max_turns": recipe.limits.max_turns < 1,
        "limits.max_turn_tokens": recipe.limits.max_turn_tokens < 1,
        "threads": recipe.threads < 0,
        # Rollouts have no live tools to fall back on.
        "cache.on_miss": recipe.cache.on_miss is MissPolicy.LIVE,
        "cache.on_miss_by_tool": MissPolicy.LIVE in recipe.cache.on_miss_by_tool.values(),
    }
    for field, wrong in faults.items():
        if wrong:
            value: Any = recipe
            for part in field.split("."):
                value = getattr(value, part)
            raise RecipeError(
                f"{where}: {field} = {value!r} is out of range. Correct it; `cacherl run --dry-run` checks."
            )
    recipe.select_options()  # refuses what is out of its own ranges


def _with_files_found(recipe: Recipe, path: Path) -> Recipe:
    """Return the recipe with the files of its own tools as they are found: beside it, or here."""
    if bool(recipe.world.tools) != bool(recipe.world.tasks):
        missing = "tasks" if recipe.world.tools else "tools"
        raise RecipeError(
            f"{path}: [world] {missing} is missing: tools of your own need tasks for them, and tasks tools."
        )
    found = {}
    for name in ("tools", "tasks"):
        said = getattr(recipe.world, name)
        if not said:
            continue
        places = (path.resolve().parent / said, Path(said))
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise RecipeError(
                f"{path}: [world] {name} = {said!r}: no such file beside the recipe or here. Correct it."
            )
        found[name] = str(file)
    world = msgspec.structs.replace(recipe.world, **found)
    return msgspec.structs.replace(recipe, world=world)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: the file is missing, is no TOML, or a key or value is wrong; says which.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecipeError(
            f"{path}: no such recipe. Those that ship are in recipes/: try recipes/quickstart.toml."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error}).") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not TOML: {error}. Correct that line.") from error
    for table in ("sft", "grpo"):  # TOML has no null: `lora = false` trains all weights
        section = data.get(table)
        if isinstance(section, dict) and section.get("lora") is False:
            section["lora"] = None
    try:
        recipe = msgspec.convert(data, Recipe, strict=True)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{path}: {_plain(str(error))}. Correct that key.") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from error
    recipe = _with_files_found(recipe, path)
    _check(recipe, str(path))
    try:
        recipe.reward.alphas(), recipe.reward.weights()
    except ValueError as error:
        raise RecipeError(f"{path}: [reward]: {error}. Correct that table.") from error
    return recipe


def _plain(message: str) -> str:
    """Turn msgspec's `$.sft.epochs` into `sft.epochs`."""
    return message.replace("`$.", "`").replace(" - at `$`", "")


# ---- the run folder ----------------------------------------------------------------------------


class StageNote(Record, frozen=True, kw_only=True):
    """What `stage.json` says of a finished stage."""

    stage: Stage
    key: str
    """Digest of the settings and of the inputs' keys."""
    version: str
    wall_s: float
    """Wall seconds over all runs that led here."""
    live_calls: int
    """Calls that reached a live tool in this stage."""
    outputs: dict[str, str]
    """Digest of each output file, by its path in the stage's folder."""
    facts: dict[str, Any] = {}
    """The stage's own summary."""


class _Begun(Record, frozen=True, kw_only=True):
    key: str
    wall_s: float = 0.0
    live_calls: int = 0


def digest_of(value: Any) -> str:
    """Return a digest of any record or JSON value; field order counts, spacing does not."""
    return hashlib.blake2b(msgspec.json.encode(value), digest_size=12).hexdigest()


def file_digest(path: Path) -> str:
    """Return the digest of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=12)).hexdigest()


class RunFolder:
    """One run's folder: what is done, what was begun, what is stale."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, stage: Stage) -> Path:
        """The folder of a stage."""
        return self.root / stage.value

    def done(self, stage: Stage, key: str) -> StageNote | None:
        """Return the note of a stage made from exactly this, all outputs in place, or None.

        Raises:
            DataError: an output is not what the stage wrote.
        """
        note = self._read(self.path(stage) / "stage.json", StageNote)
        if note is None or note.key != key:
            return None
        for name, digest in note.outputs.items():
            path = self.path(stage) / name
            if not path.exists():
                return None
            if file_digest(path) != digest:
                raise DataError(
                    f"{path}: changed after the stage {stage.value} wrote it. Restore it, or delete "
                    f"{self.path(stage)} to run the stage again."
                )
        return note

    def begin(self, stage: Stage, key: str) -> _Begun:
        """Prepare a stage's folder: kept when a killed run of the same settings began it.

        What was made from other settings is deleted, except recordings, which are moved aside: they
        may have cost money.
        """
        folder = self.path(stage)
        begun = self._read(folder / "begun.json", _Begun)
        if begun is None or begun.key != key:
            if folder.exists():
                if stage is Stage.RECORD:
                    number = 1
                    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
                        number += 1
                    folder.rename(aside)
                else:
                    shutil.rmtree(folder)
            folder.mkdir(parents=True)
            begun = _Begun(key=key)
            self._write(folder / "begun.json", begun)
        (folder / "stage.json").unlink(missing_ok=True)
        return begun

    def keep_time(self, stage: Stage, key: str, *, wall_s: float, live_calls: int) -> None:
        """Note what an unfinished run of a stage has used so far."""
        note = _Begun(key=key, wall_s=wall_s, live_calls=live_calls)
        self._write(self.path(stage) / "begun.json", note)

    def finish(
        self,
        stage: Stage,
        key: str,
        *,
        wall_s: float,
        live_calls: int,
        outputs: Mapping[str, Path],
        facts: Mapping[str, Any],
    ) -> StageNote:
        """Note that a stage is done."""
        note = StageNote(
            stage=stage,
            key=key,
            version=__version__,
            wall_s=wall_s,
            live_calls=live_calls,
            outputs={name: file_digest(path) for name, path in outputs.items()},
            facts=dict(facts),
        )
        self._write(self.path(stage) / "stage.json", note)
        return note

    def note(self, stage: Stage) -> StageNote | None:
        """Return what a stage noted when it ended, whatever it was made from."""
        return self._read(self.path(stage) / "stage.json", StageNote)

    @staticmethod
    def _write(path: Path, record: Record) -> None:
        with atomic_writer(path) as handle:
            handle.write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")

    @staticmethod
    def _read(path: Path, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise DataError(
                f"{path}: cannot be read ({error}). Delete {path.parent} to run the stage again."
            ) from error


class RunLock:
    """Keeps two runs out of one folder: a lock file with the holder's process id."""

    def __init__(self, root: Path) -> None:
        self._path = root / "run.lock"
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        import fcntl

        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise RecipeError(
                f"{self._path.parent} is in use by another cacherl command. Wait for it, or "
                "name another folder."
            ) from error
        self._descriptor = descriptor
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)  # the lock goes with it, on a kill too
