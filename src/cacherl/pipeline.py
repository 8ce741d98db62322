"""All stages of a recipe in order: skip what is up to date, go on where a kill came, count live calls.

Every arrow between two stages is a file in the run folder.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec

from cacherl import __version__, wiring
from cacherl.augment import AugmentSummary, augment, require_all
from cacherl.augment.folder import paid_between
from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.lookup.settings import NO_SETTINGS, SETTINGS_NOTE, Settings, load_settings
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.safety.audit import require_single_split
from cacherl.cache.storage.snapshot import SnapshotStore
from cacherl.cache.trust.calibrate import calibrate_and_keep
from cacherl.cache.trust.fidelity import kept_calibration
from cacherl.core.errors import BudgetError, MissingExtraError, RecipeError
from cacherl.core.jsonl import atomic_writer, read_jsonl, write_jsonl
from cacherl.core.languages import detector
from cacherl.core.messages import ToolCall
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Tier, ToolResult, Tools
from cacherl.core.trajectories import Trajectory
from cacherl.core.worlds import World, WorldTools
from cacherl.evaluate import Evaluation, evaluate
from cacherl.evaluate.provenance import commit, machine
from cacherl.experiment import (
    Recipe,
    RunFolder,
    RunLock,
    Stage,
    StageNote,
    digest_of,
    file_digest,
)
from cacherl.grpo import GRPOPoint, grpo
from cacherl.metrics import EvalRow, EvalSummary, paired_difference, summarise
from cacherl.record import record
from cacherl.report.data import (
    Curve,
    Gain,
    ModelReport,
    NextCommand,
    ReportData,
    TeacherCost,
    Transcript,
)
from cacherl.report.page import write_report
from cacherl.reward.hybrid import TrustBy
from cacherl.select import select
from cacherl.sft import SFTPoint, sft

MODELS = ("base", "sft", "grpo")


class Screen(Protocol):
    """Where a run tells how it goes."""

    def stage(self, stage: Stage, state: str) -> None:
        """A stage is `up to date`, `running` or `done`."""
        ...

    def progress(self, stage: Stage, what: str, done: int, total: int, facts: str) -> None:
        """How far the running stage is."""
        ...

    def note(self, text: str) -> None:
        """One line worth keeping."""
        ...


class _CountingWorld:
    """The live world; every call that reaches it is counted, whoever makes it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.namespace = world.namespace
        self.resets = world.resets
        self.live_calls = 0

    @property
    def specs(self) -> Sequence[Any]:
        return self._world.specs

    def open(self, scenario: str) -> WorldTools:
        return _CountingTools(self._world.open(scenario), self)

    def tasks(self, split: Split, *, count: int, seed: int) -> list[Task]:
        return self._world.tasks(split, count=count, seed=seed)


class _CountingTools:
    def __init__(self, tools: WorldTools, world: _CountingWorld) -> None:
        self._tools, self._world = tools, world

    async def call(self, call: ToolCall) -> ToolResult:
        self._world.live_calls += 1
        return await self._tools.call(call)

    async def aclose(self) -> None:
        await self._tools.aclose()

    def fingerprint(self) -> str:
        return self._tools.fingerprint()


def plan(recipe: Recipe, recipe_path: Path) -> list[tuple[Stage, str]]:
    """Return the stages of a recipe with the key of each: a digest of its settings and its inputs.

    Raises:
        RecipeError: a name in the recipe means nothing, or it does not say how many tasks.
        ModelError: the model is a folder that is not there.
    """
    for name in ("train", "test"):
        if getattr(recipe.tasks, name) < 1:
            raise RecipeError(f"{recipe_path}: tasks.{name} is missing: say how many tasks.")
    wiring.world_of(recipe.world)
    wiring.policy_of(recipe)
    wiring.reasoner_named(recipe.augment.reasoner, journal=None)
    model = wiring.model_path(recipe.model.path, recipe_path.resolve().parent)
    weights = Path(model) / "model.safetensors"
    stamp = _stamp(weights) if weights.is_file() else model
    files = [file_digest(Path(each)) for each in (recipe.world.tools, recipe.world.tasks) if each]
    # Where the files lie does not matter, what they say does.
    world = msgspec.structs.replace(recipe.world, tools="", tasks="")
    tasks = digest_of([world, recipe.tasks, *files])
    recorded = digest_of([tasks, recipe.record, recipe.limits])
    said = msgspec.to_builtins(_settings_of(recipe, recipe_path))
    cached = digest_of([recorded, "cache", "calibrated", "frozen", said])
    augmented = digest_of([recorded, recipe.augment])
    selected = digest_of([augmented, recipe.select])
    tuned = digest_of([selected, recipe.sft, recipe.model, stamp])
    trained = digest_of([tuned, cached, recipe.grpo, recipe.reward, recipe.cache])
    evaluated = digest_of([trained, recipe.evaluate])
    reported = digest_of([evaluated, recipe.name])
    keys = (tasks, recorded, cached, augmented, selected, tuned, trained, evaluated, reported)
    return [(stage, digest_of([key, __version__])) for stage, key in zip(Stage, keys, strict=True)]


def _stamp(weights: Path) -> str:
    """Return what tells these weights from others: their digest, or size and time for large files."""
    facts = weights.stat()
    if facts.st_size < 1 << 28:
        return file_digest(weights)
    return f"{facts.st_size} {facts.st_mtime_ns}"


def _settings_of(recipe: Recipe, recipe_path: Path) -> Settings:
    if not recipe.cache.settings:
        return NO_SETTINGS
    return load_settings(recipe_path.resolve().parent / recipe.cache.settings)


class Run:
    """One run of a recipe in its folder."""

    def __init__(self, recipe: Recipe, recipe_path: Path, screen: Screen) -> None:
        self.recipe = recipe
        self.folder = RunFolder(recipe.folder)
        self.screen = screen
        self.model = wiring.model_path(recipe.model.path, recipe_path.resolve().parent)
        self.recipe_path = recipe_path
        self.world = _CountingWorld(wiring.world_of(recipe.world))
        self._keys = dict(plan(recipe, recipe_path))

    def all(self, until: Stage | None = None, redo: Stage | None = None) -> list[StageNote]:
        """Run the stages in order and return what each noted.

        Args:
            until: the last stage to run; None runs all.
            redo: a stage to run again with everything after it.
        """
        steps: dict[Stage, Callable[[Stage], tuple[Mapping[str, Path], Mapping[str, Any]]]] = {
            Stage.TASKS: self._tasks,
            Stage.RECORD: self._record,
            Stage.CACHE: self._cache,
            Stage.AUGMENT: self._augment,
            Stage.SELECT: self._select,
            Stage.SFT: self._sft,
            Stage.GRPO: self._grpo,
            Stage.EVALUATE: self._evaluate,
            Stage.REPORT: self._report,
        }
        notes = []
        stale = False
        with RunLock(self.folder.root):
            for stage, step in steps.items():
                stale = stale or stage is redo
                notes.append(self._one(stage, step, fresh=stale))
                if stage is until:
                    break
        return notes

    def _one(
        self,
        stage: Stage,
        step: Callable[[Stage], tuple[Mapping[str, Path], Mapping[str, Any]]],
        *,
        fresh: bool,
    ) -> StageNote:
        key = self._keys[stage]
        note = None if fresh else self.folder.done(stage, key)
        if note is not None:
            self.screen.stage(stage, "up to date")
            return note
        begun = self.folder.begin(stage, "" if fresh else key)
        if fresh:
            begun = self.folder.begin(stage, key)
        self.screen.stage(stage, "running")
        started, calls = time.perf_counter(), self.world.live_calls

        def used() -> tuple[float, int]:
            wall = begun.wall_s + time.perf_counter() - started
            return wall, begun.live_calls + self.world.live_calls - calls

        try:
            outputs, facts = step(stage)
        except BaseException:
            wall, live = used()
            self.folder.keep_time(stage, key, wall_s=wall, live_calls=live)
            raise
        wall, live = used()
        note = self.folder.finish(
            stage, key, wall_s=wall, live_calls=live, outputs=outputs, facts=facts
        )
        self.screen.stage(stage, "done")
        return note

    # ---- files ---------------------------------------------------------------------------------

    def _file(self, stage: Stage, name: str) -> Path:
        return self.folder.path(stage) / name

    def _read_tasks(self, name: str) -> list[Task]:
        return list(read_jsonl(self._file(Stage.TASKS, f"{name}.jsonl"), Task))

    def _progress(self, stage: Stage, what: str, facts: str = "") -> Callable[[int, int], None]:
        def tell(done: int, total: int) -> None:
            self.screen.progress(stage, what, done, total, facts)

        return tell

    # ---- stages --------------------------------------------------------------------------------

    def _tasks(self, stage: Stage) -> tuple[Mapping[str, Path], Mapping[str, Any]]:
        r = self.recipe.tasks
        paths = {}
        for name, split, count in (
            ("train", Split.TRAIN, r.train),
            ("heldout", Split(r.evaluate_split), r.test),
        ):
            path = self._file(stage, f"{name}.jsonl")
            write_jsonl(path, self.world.tasks(split, count=count, seed=r.seed))
            paths[path.name] = path
        return paths, {"train": r.train, "heldout": r.test, "split": r.evaluate_split}

    def _record(self, stage: Stage) -> tuple[Mapping[str, Path], Mapping[str, Any]]:
        r = self.recipe.record
        out = self._file(stage, "trajectories.jsonl")
        summary = asyncio.run(
            record(
                wiring.policy_of(self.recipe),
                self.world,
                self._read_tasks("train"),
                limits=self.recipe.limits.limits(),
                seed=r.seed,
                out=out,
                concurrency=r.concurrency,
                best_of=r.best_of,
                on_progress=self._progress(stage, "training tasks"),
            )
        )
        if summary.out_of_budget is not None:
            raise BudgetError(summary.out_of_budget)
        # The held-out cache is for the cached evaluation only. It is a file of its own, and training
        # never opens it.
        held = self._file(stage, "heldout.jsonl")
        asyncio.run(
            record(
                wiring.gold_expert(self.recipe),
                self.world,
                self._read_tasks("heldout"),
                limits=self.recipe.limits.limits(),
                seed=r.seed,
                out=held,
                concurrency=r.concurrency,
                on_progress=self._progress(stage, "held-out tasks"),
            )
        )
        facts = {**msgspec.to_builtins(summary), "policy": r.policy}
        return {out.name: out, held.name: held}, facts

    def _cache(self, stage: Stage) -> tuple[Mapping[str, Path], Mapping[str, Any]]:
        facts: dict[str, Any] = {}
        outputs: dict[str, Path] = {}
        for name, source in (("train", "trajectories"), ("heldout", "heldout")):
            tasks = {task.id: task for task in self._read_tasks(name)}
            path = self._file(stage, f"{name}.sqlite")
            for stale in path.parent.glob(f"{path.name}*"):
                stale.unlink()
            trajectories = list(read_jsonl(self._file(Stage.RECORD, f"{source}.jsonl"), Trajectory))
            settings = _settings_of(self.recipe, self.recipe_path)
            with ToolCache.open(path, mode="write", settings=settings) as cache:
                cache.store.put_note(SETTINGS_NOTE, msgspec.json.encode(settings))
                for number, trajectory in enumerate(trajectories, 1):
                    cache.record_trajectory(tasks[trajectory.task_id], trajectory)
                    if number % 50 == 0 or number == len(trajectories):
                        self.screen.progress(stage, f"{name} cache", number, len(trajectories), "")
                if name == "train":
                    self._calibrate(stage, cache)
                stats = cache.stats()
                frozen = cache.freeze(self._file(stage, f"{name}.snapshot"))
            self.screen.note(f"{name} cache frozen: snapshot {frozen.id}, {frozen.calls} calls")
            facts[name] = {
                "snapshot": frozen.id,
                "calls": stats.calls,
                "observations": stats.observations,
                "scenarios": stats.scenarios,
                "tools": len(stats.tools),
                "contradictions": sum(tool.contradictions for tool in stats.tools),
                "splits": stats.by_split,
            }
            outputs[path.name] = path
            outputs[f"{name}.snapshot"] = Path(frozen.path)
        return outputs, facts

    def _snapshot(self, name: str) -> ToolCache:
        """Open a frozen cache to read, and say which it is: the id is the digest of all it holds."""
        cache = ToolCache.open(self._file(Stage.CACHE, f"{name}.snapshot"))
        if isinstance(cache.store, SnapshotStore):
            self.screen.note(f"reading snapshot {cache.store.short_id} ({name})")
        return cache

    def _calibrate(self, stage: Stage, cache: ToolCache) -> None:
        """Keep with the training cache how often its answers are right, where that can be measured."""

        def told(done: int, total: int) -> None:
            self.screen.progress(stage, "tools calibrated", done, total, "")

        if not cache.store.tools():
            return
        try:
            calibrate_and_keep(cache, made_at=None, on_tool=told)
        except MissingExtraError as error:
            if self.recipe.reward.trust is TrustBy.CALIBRATED:
                raise
            self.screen.note(f"the cache was not calibrated: {error}")

    def _augment(self, stage: Stage) -> tuple[Mapping[str, Path], Mapping[str, Any]]:
        trajectories = list(read_jsonl(self._file(Stage.RECORD, "trajectories.jsonl"), Trajectory))
        out = self._file(stage, "trajectories.jsonl")
        reasoner, paid = wiring.reasoner_named(
            self.recipe.augment.reasoner, journal=self._file(stage, "journal")
        )

        def told(done: int) -> None:
            self.screen.progress(stage, "reasons", done, len(trajectories), "")

        async def run() -> AugmentSummary:
            try:
                return await augment(
                    {task.id: task for task in self._read_tasks("train")},
                    trajectories,
                    reasoner,
                    out,
                    options=self.recipe.augment_options(),
                    detect=None if paid is None else detector(),
                    concurrency=self.recipe.augment.concurrency,
                    on_progress=told,
                )
            finally:
                if paid is not None:
                    await paid.aclose()

        summary = asyncio.run(run())
        require_all(summary)
        cost = {} if paid is None else msgspec.to_builtins(paid_between(None, paid.ledger()))
        return {out.name: out}, {**msgspec.to_builtins(summary), **cost}

    def _select(self, stage: Stage) -> tuple[Mapping[str, Path], Mapping[str, Any]]:
        out = self._file(stage, "trajectories.jsonl")
        selection = select(
            {task.id: task for task in self._read_tasks("train")},
            self._file(Stage.AUGMENT, "trajectories.jsonl"),
            out,
            options=self.recipe.select_options(),
        )
        chosen = self._file(stage, "selection.json")
        with atomic_writer(chosen) as handle:
            handle.write(msgspec.json.encode(selection))
        facts = msgspec.to_builtins(selection)
        del facts["judgements"]
        return {out.name: out, chosen.name: chosen}, facts

    def _sft(self, stage: Stage) -> tuple[Mapping[str, Path], Mapping[str, Any]]:
        wiring.prepare_cpu(self.recipe.threads)
        kept = list(read_jsonl(self._file(Stage.SELECT, "trajectories.jsonl"), Trajectory))
        share = kept[: max(1, round(len(kept) * self.recipe.select.sft_share))]

        def told(step: int, total: int, facts: Mapping[str, float]) -> None:
            self.screen.progress(stage, "steps", step, total, f"loss {facts['loss']:.3f}")

        out = self._file(stage, "model")
        summary = sft(
            {task.id: task for task in self._read_tasks("train")},
            share,
            wiring.codec_of(self.model, self.recipe.model.template),
            wiring.trainer_of(self.recipe),
            self.recipe.sft,
            model=self.model,
            out=out,
            work=self._file(stage, "work"),
            on_progress=told,
        )
        return {"model/model.safetensors": out / "model.safetensors"}, msgspec.to_builtins(summary)

    def _grpo(self, stage: Stage) -> tuple[Mapping[str, Path], Mapping[str, Any]]:
        wiring.prepare_cpu(self.recipe.threads)
        out = self._file(stage, "model")
        start = str(self._file(Stage.SFT, "model"))

        def told(step: int, total: int, facts: Mapping[str, float]) -> None:
            self.screen.progress(stage, "steps", step, total, f"reward {facts['reward']:.3f}")

        with self._snapshot("train") as cache:
            summary = grpo(
                self._read_tasks("train"),
                lambda task, seed, rollout: self._replay(cache, task, seed, rollout, Split.TRAIN),
                wiring.codec_of(start, self.recipe.model.template),
                wiring.trainer_of(self.recipe),
                self.recipe.grpo,
                model=start,
                out=out,
                work=self._file(stage, "work"),
                limits=self.recipe.limits.limits(),
                alphas=self.recipe.reward.alphas(),
                weights=self.recipe.reward.weights(),
                trust=self.recipe.reward.trust,
                on_progress=told,
            )
        for note in summary.notes:
            self.screen.note(note)
        return {"model/model.safetensors": out / "model.safetensors"}, msgspec.to_builtins(summary)

    def _replay(
        self, cache: ToolCache, task: Task, seed: int, rollout: int, split: Split
    ) -> ReplayTools:
        section = self.recipe.cache
        on_miss = {"*": section.on_miss, **section.on_miss_by_tool}
        return ReplayTools(
            cache,
            task,
            seed=seed,
            rollout=rollout,
            on_miss=on_miss,
            draw=section.draw,
            splits=frozenset({split}),
        )

    # ---- evaluation ----------------------------------------------------------------------------

    def _evaluate(self, stage: Stage) -> tuple[Mapping[str, Path], Mapping[str, Any]]:
        wiring.prepare_cpu(self.recipe.threads)
        tasks = self._read_tasks("heldout")
        trained_on = self._read_tasks("train")
        seen_tools = {tool.name for task in trained_on for tool in task.tools}
        seen_wordings = {task.wording for task in trained_on}
        split = Split(self.recipe.tasks.evaluate_split)
        paths = {
            "base": self.model,
            "sft": str(self._file(Stage.SFT, "model")),
            "grpo": str(self._file(Stage.GRPO, "model")),
        }
        outputs: dict[str, Path] = {}
        rows: dict[str, dict[str, list[EvalRow]]] = {"live": {}, "cached": {}}
        before = self.world.live_calls
        cached_calls = 0
        with self._snapshot("heldout") as cache:
            require_single_split(cache.store, split, cache.name)

            def cached(task: Task) -> Tools:
                return self._replay(cache, task, self.recipe.evaluate.seed, 0, split)

            def live(task: Task) -> Tools:
                return self.world.open(task.scenario)

            # All cached evaluations come first: until they end, no tool may have run live.
            for kind, opener in (("cached", cached), ("live", live)):
                for name, path in paths.items():
                    played = self._played(
                        stage, name, kind, path, tasks, opener, seen_tools, seen_wordings
                    )
                    rows[kind][name] = list(played.rows)
                    for end in ("rows", "episodes"):
                        outputs[f"{name}-{kind}.{end}.jsonl"] = self._file(
                            stage, f"{name}-{kind}.{end}.jsonl"
                        )
                    if played.not_scored:
                        first = played.not_scored[0]
                        self.screen.note(
                            f"{len(played.not_scored)} {kind} episodes of {name} were not scored: {first.error}"
                        )
                if kind == "cached":
                    cached_calls = self.world.live_calls - before
        metrics = self._metrics(rows, cached_calls)
        written = self._file(stage, "metrics.json")
        with atomic_writer(written) as handle:
            handle.write(msgspec.json.format(msgspec.json.encode(metrics), indent=2) + b"\n")
        outputs[written.name] = written
        return outputs, {"cached_live_calls": cached_calls}

    def _played(
        self,
        stage: Stage,
        name: str,
        kind: str,
        path: str,
        tasks: Sequence[Task],
        opener: Callable[[Task], Tools],
        seen_tools: set[str],
        seen_wordings: set[str],
    ) -> Evaluation:
        rows_path = self._file(stage, f"{name}-{kind}.rows.jsonl")
        chat = wiring.local_chat(path, self.recipe.model.template, self.recipe.evaluate, name=name)
        done = 0

        def told(row: object, trajectory: Trajectory | None) -> None:
            nonlocal done
            done += 1
            self.screen.progress(stage, f"{name} {kind}", done, len(tasks), "")

        return asyncio.run(
            evaluate(
                chat,
                tasks,
                opener,
                limits=self.recipe.limits.limits(),
                seed=self.recipe.evaluate.seed,
                on_result=told,
                rows_path=rows_path,
                trajectories_path=self._file(stage, f"{name}-{kind}.episodes.jsonl"),
                seen_tools=seen_tools,
                seen_wordings=seen_wordings,
            )
        )

    def _metrics(
        self, rows: Mapping[str, Mapping[str, list[EvalRow]]], cached_calls: int
    ) -> dict[str, Any]:
        seed = self.recipe.evaluate.seed
        summaries = {
            kind: {name: summarise(rows[kind][name], seed=seed) for name in MODELS}
            for kind in ("live", "cached")
        }
        training = (Stage.CACHE, Stage.AUGMENT, Stage.SELECT, Stage.SFT, Stage.GRPO)
        notes = {stage: self.folder.note(stage) for stage in Stage}
        cached = notes[Stage.CACHE]
        grpo_points = self._grpo_points()
        return {
            **{name: _figures(summaries["live"][name]) for name in MODELS},
            "cached": {name: _figures(summaries["cached"][name]) for name in MODELS},
            "gains": [
                _gain(before, after, metric, rows["live"], seed)
                for before, after in itertools.pairwise(MODELS)
                for metric in ("process_accuracy", "end_to_end")
            ],
            "live_calls_in_record": _live(notes[Stage.RECORD]),
            "live_calls_in_training": sum(_live(notes[stage]) for stage in training) + cached_calls,
            "tier_mix": {
                "grpo": _tier_mix(grpo_points),
                "cached": {name: summaries["cached"][name].tier_mix for name in MODELS},
            },
            "wall_s": {
                stage.value: round(note.wall_s, 2)
                for stage, note in notes.items()
                if note is not None
            },
            "snapshots": {
                name: facts["snapshot"] for name, facts in (cached.facts if cached else {}).items()
            },
            "split": self.recipe.tasks.evaluate_split,
            "summaries": msgspec.to_builtins(summaries),
        }

    def _grpo_points(self) -> list[GRPOPoint]:
        return list(read_jsonl(self._file(Stage.GRPO, "work/curve.jsonl"), GRPOPoint))

    # ---- report --------------------------------------------------------------------------------

    def _report(self, stage: Stage) -> tuple[Mapping[str, Path], Mapping[str, Any]]:
        evaluated = self._file(Stage.EVALUATE, "metrics.json")
        metrics = msgspec.json.decode(evaluated.read_bytes())
        summaries = msgspec.convert(
            metrics["summaries"], dict[str, dict[str, EvalSummary]], strict=True
        )
        # The evaluation's own wall time is known only now.
        evaluation = self.folder.note(Stage.EVALUATE)
        if evaluation is not None:
            metrics["wall_s"][Stage.EVALUATE.value] = round(evaluation.wall_s, 2)
        data = self._report_data(metrics, summaries)
        page = self.folder.root / "report.html"
        write_report(data, page)
        path = self.folder.root / "metrics.json"
        with atomic_writer(path) as handle:
            handle.write(msgspec.json.format(msgspec.json.encode(metrics), indent=2) + b"\n")
        self._write_manifest()
        return {"../report.html": page, "../metrics.json": path}, {}

    def _report_data(
        self, metrics: Mapping[str, Any], summaries: Mapping[str, Mapping[str, EvalSummary]]
    ) -> ReportData:
        points = self._grpo_points()
        steps = tuple(float(p.step) for p in points)
        losses = list(read_jsonl(self._file(Stage.SFT, "work/curve.jsonl"), SFTPoint))
        augmented = self.folder.note(Stage.AUGMENT)
        cache = self.folder.note(Stage.CACHE)
        train_cache = self._file(Stage.CACHE, "train.sqlite")
        with ToolCache.open(train_cache) as recordings:
            calibration = kept_calibration(recordings.store, name=recordings.name)
        facts = augmented.facts if augmented else {}
        tiers = sorted({tier for p in points for tier in p.batch.tiers}, key=lambda t: t.rank)
        kl = [p.kl for p in points if p.kl is not None]
        return ReportData(
            recipe=self.recipe.name,
            machine=machine(),
            commit=commit(),
            finished=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            seed=self.recipe.evaluate.seed,
            models=tuple(
                ModelReport(
                    name=name, live=summaries["live"][name], cached=summaries["cached"][name]
                )
                for name in MODELS
            ),
            gains=tuple(Gain(**gain) for gain in metrics["gains"]),
            sft_loss=Curve(
                steps=tuple(float(p.step) for p in losses), values=tuple(p.loss for p in losses)
            ),
            grpo={
                "reward": Curve(steps=steps, values=tuple(p.batch.reward for p in points)),
                "process": Curve(steps=steps, values=tuple(p.batch.process for p in points)),
                "answer": Curve(steps=steps, values=tuple(p.batch.answer for p in points)),
                **({"kl": Curve(steps=steps, values=tuple(kl))} if len(kl) == len(steps) else {}),
            },
            grpo_tier_mix={
                _said(tier): Curve(
                    steps=steps, values=tuple(p.batch.tiers.get(tier, 0.0) for p in points)
                )
                for tier in tiers
            },
            stage_wall_s=metrics["wall_s"],
            live_calls_in_training=metrics["live_calls_in_training"],
            teacher=TeacherCost(
                usd=float(facts.get("dollars") or 0.0),
                calls=int(facts.get("requests", 0)),
                prompt_tokens=int(facts.get("prompt_tokens", 0)),
                completion_tokens=int(facts.get("completion_tokens", 0)),
            ),
            cache_stats={
                f"{name} {key}": value
                for name, values in (cache.facts if cache else {}).items()
                for key, value in values.items()
                if isinstance(value, int | float | str)
            },
            calibration=calibration,
            transcripts=self._transcripts(),
            next_commands=(
                *(
                    [
                        NextCommand(
                            why="Measure how often the training cache is right",
                            command="pip install 'cacherl[calibrate]' && "
                            f"cacherl run {self.recipe_path} --redo cache",
                        )
                    ]
                    if calibration is None
                    else []
                ),
                NextCommand(
                    why="Measure the trained model on fresh tasks of any seed",
                    command=f"cacherl eval {self.folder.root}/grpo/model --suite desk --split test "
                    "--tools live --seed 7 --limit 100",
                ),
                NextCommand(
                    why="See what the training cache holds",
                    command=f"cacherl cache stats {train_cache}",
                ),
                NextCommand(
                    why="Plan the same for a 4 B model on a GPU",
                    command="cacherl run recipes/qwen3-4b.toml --dry-run",
                ),
            ),
        )

    def _transcripts(self) -> tuple[Transcript, ...]:
        tasks = self._read_tasks("heldout")
        families: dict[str, Task] = {}
        for task in tasks:
            families.setdefault(task.family, task)
        chosen = list(families.values())[: self.recipe.evaluate.transcripts]
        wanted = {task.id for task in chosen}
        played: dict[str, dict[str, Trajectory]] = {task.id: {} for task in chosen}
        for name in MODELS:
            path = self._file(Stage.EVALUATE, f"{name}-live.episodes.jsonl")
            for trajectory in read_jsonl(path, Trajectory, drop_torn_tail=True):
                if trajectory.task_id in wanted:
                    played[trajectory.task_id][name] = trajectory
        return tuple(Transcript(task=task, played=played[task.id]) for task in chosen)

    def _write_manifest(self) -> None:
        manifest = {
            "version": __version__,
            "commit": commit(),
            "machine": machine(),
            "recipe": msgspec.to_builtins(self.recipe),
            "keys": {stage.value: key for stage, key in self._keys.items()},
        }
        with atomic_writer(self.folder.root / "manifest.json") as handle:
            handle.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def _live(note: StageNote | None) -> int:
    return note.live_calls if note is not None else 0


def _figures(summary: EvalSummary) -> dict[str, Any]:
    process, end_to_end = summary.process_accuracy, summary.end_to_end
    return {
        "process_accuracy": process.mean,
        "process_accuracy_interval": [process.low, process.high],
        "end_to_end": end_to_end.mean,
        "end_to_end_interval": [end_to_end.low, end_to_end.high],
        "n": summary.n,
    }


def _gain(
    before: str, after: str, metric: str, rows: Mapping[str, list[EvalRow]], seed: int
) -> dict[str, Any]:
    mean, low, high = paired_difference(rows[before], rows[after], metric=metric, seed=seed)
    return {
        "before": before,
        "after": after,
        "metric": metric,
        "mean": mean,
        "low": low,
        "high": high,
    }


def _tier_mix(points: Sequence[GRPOPoint]) -> dict[str, float]:
    """Return the share of GRPO's rollouts by worst tier, over all steps."""
    total = sum(point.batch.rollouts for point in points)
    mix = dict.fromkeys(Tier, 0.0)
    for point in points:
        for tier, share in point.batch.tiers.items():
            mix[tier] += share * point.batch.rollouts / total
    return {_said(tier): round(share, 4) for tier, share in mix.items()}


def _said(tier: Tier) -> str:
    """Return a tier's name in training, where no tool runs live: LIVE is a rollout without a call."""
    return "no_call" if tier is Tier.LIVE else tier.value
