"""TRL's trainers behind our two seams: `SupervisedTrainer` and `PolicyTrainer`.

What TRL does is left to TRL: losses, advantages, optimizer, scheduler, checkpoints. What is changed here is
how often the same ids are read. The rows of a micro batch begin alike (same tools, same prompt), so their common
beginning goes through the model once and its keys and values serve all rows, gradient included; rows are
trimmed to the micro batch; and a group whose rewards are all equal, which has no gradient, costs no pass.

Written against TRL 1.16 (the `[train]` extra pins it): `rollout_func` and the overridden methods are private
or experimental there. `tests/adapters/test_trl_trainer.py` compares losses and gradients with stock TRL.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import datasets
import msgspec
import torch
import transformers
import trl
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.cache_utils import DynamicCache
from trl.trainer.utils import split_tensor_dict

from cacherl.core.errors import ModelError
from cacherl.core.jsonl import JsonlAppender, read_jsonl, write_jsonl
from cacherl.core.tasks import Task
from cacherl.core.training import Dtype, LoRA, Optimizer, Progress
from cacherl.grpo import GRPOConfig, GRPOPoint, Play, Played, metrics_of, trained_segment
from cacherl.rollout import Rollout
from cacherl.sft import IGNORED, Example, SFTConfig, SFTPoint, schedule, steps_of
from cacherl.token_chat import Engine

MakeEngine = Callable[[Any], Engine]
"""(model) -> an engine that samples from it. Called once; `new_weights()` is called before each batch
where the engine has it."""

SHARE_TOKENS = 32  # a common beginning shorter than this is not worth a pass of its own
KEEP_CHECKPOINTS = 2  # one to go on from, one in case the last was being written

# TRL's warning that rollout_func is experimental is answered by the version pin.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

P = TypeVar("P", SFTPoint, GRPOPoint)


# ---- one pass over a common beginning --------------------------------------------------------


def _common_beginning(rows: Sequence[Tensor]) -> int:
    """Return the number of leading ids that all rows share."""
    shortest = min(len(row) for row in rows)
    stacked_B_T = torch.stack([row[:shortest] for row in rows])
    same_T = (stacked_B_T == stacked_B_T[0]).all(dim=0)
    different = (~same_T).nonzero()
    return int(different[0]) if len(different) else shortest


def _backbone(model: Any) -> Any:
    while hasattr(model, "module"):
        model = model.module
    if hasattr(model, "get_base_model"):  # PEFT; its adapters stay in the layers
        model = model.get_base_model()
    return model.base_model


def shared_inputs(
    model: Any, ids_B_T: Tensor, attention_B_T: Tensor, labels_B_T: Tensor
) -> tuple[dict[str, Any], int]:
    """Return model inputs that give the same losses with the common beginning read once.

    Args:
        model: a decoder with full attention, perhaps inside PEFT.
        ids_B_T: rows, padded on either side.
        attention_B_T: 1 on real ids.
        labels_B_T: ids where the loss falls, else -100.

    Returns:
        Keyword arguments of `model` whose rows hold what follows the common beginning, padded on the right,
        and the length of that beginning (0: it was too short to share). Position t of a row is
        its real id number `length + t`.
    """
    real = attention_B_T.bool()
    rows = [ids[keep] for ids, keep in zip(ids_B_T, real, strict=True)]
    marks = [labels[keep] for labels, keep in zip(labels_B_T, real, strict=True)]
    # The id before the first label must be in the row: the label is predicted from it.
    first = min(
        int(found[0]) if len(found := (mark != IGNORED).nonzero()) else len(mark) for mark in marks
    )
    length = max(0, min(_common_beginning(rows), first - 1)) if len(rows) > 1 else 0
    if length < SHARE_TOKENS:
        length = 0
    pad = torch.nn.utils.rnn.pad_sequence
    suffix_B_S = pad([row[length:] for row in rows], batch_first=True)
    inputs: dict[str, Any] = {
        "input_ids": suffix_B_S,
        "labels": pad(
            [mark[length:] for mark in marks], batch_first=True, padding_value=float(IGNORED)
        ),
        "attention_mask": pad(
            [torch.ones_like(row) for row in rows], batch_first=True
        ),  # [B, length + S]
    }
    if length:
        cache = DynamicCache(config=model.config)
        _backbone(model)(input_ids=rows[0][None, :length], past_key_values=cache, use_cache=True)
        for layer in cache.layers:
            layer.keys = layer.keys.expand(len(rows), -1, -1, -1)
            layer.values = layer.values.expand(len(rows), -1, -1, -1)
        inputs["past_key_values"] = cache
        inputs["position_ids"] = length + torch.arange(suffix_B_S.size(1), device=ids_B_T.device)[
            None
        ].expand(len(rows), -1)
    return inputs, length


# ---- TRL's trainers, reading less ------------------------------------------------------------


class _SFT(trl.SFTTrainer):
    """SFTTrainer whose micro batches read their common beginning once."""

    share_prefix = True

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if self.share_prefix:
            inputs, _ = shared_inputs(
                model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
            )
        return super().compute_loss(model, inputs, *args, **kwargs)


class _GRPO(trl.GRPOTrainer):
    """GRPOTrainer whose micro batches are groups, trimmed, and read their prompt once."""

    share_prefix = True
    _buffered_inputs: Any

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        # As TRL does, but without shuffling: a micro batch of one group has one prompt.
        every = self.args.steps_per_generation * self.num_iterations
        if self._step % every == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_tensor_dict(batch, self.args.steps_per_generation)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        if self.beta == 0.0 and not inputs["advantages"].any():
            weight = next(p for p in model.parameters() if p.requires_grad)
            return weight.sum() * 0.0  # in the graph, so that backward has something to do
        return super()._compute_loss(model, _trimmed(inputs))

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if not self.share_prefix:
            result: tuple[Tensor, Tensor | None, Tensor | None] = (
                super()._get_per_token_logps_and_entropies(
                    model,
                    input_ids,
                    attention_mask,
                    logits_to_keep,
                    batch_size=batch_size,
                    compute_entropy=compute_entropy,
                    **kwargs,
                )
            )
            return result
        size = batch_size or len(input_ids)
        logps, entropies = [], []
        for start in range(0, len(input_ids), size):
            part = slice(start, start + size)
            one, spread = self._shared_logps(
                model,
                input_ids[part],
                attention_mask[part],
                logits_to_keep,
                entropy=compute_entropy,
            )
            logps.append(one)
            if spread is not None:
                entropies.append(spread)
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _shared_logps(
        self, model: Any, ids_B_T: Tensor, attention_B_T: Tensor, keep: int, *, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return log-probabilities and entropies [B, keep] of the last `keep` places of each row."""
        labels_B_T = ids_B_T.masked_fill(attention_B_T == 0, IGNORED)
        labels_B_T[:, :-keep] = IGNORED
        with self.accelerator.autocast():
            inputs, length = shared_inputs(model, ids_B_T, attention_B_T, labels_B_T)
            outputs = model(**inputs, fused_lm_head=True)
        # Column s of the output scores id number length + s + 1 of the row.
        starts = (attention_B_T[:, :-keep].sum(1) - length - 1).tolist()
        sizes = attention_B_T[:, -keep:].sum(1).tolist()

        def placed(values_B_S: Tensor) -> Tensor:
            return torch.stack(
                [
                    torch.nn.functional.pad(row[start : start + size], (0, keep - size))
                    for row, start, size in zip(values_B_S, starts, sizes, strict=True)
                ]
            )

        return placed(outputs.log_probs), placed(outputs.entropy) if entropy else None


def _trimmed(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the micro batch without columns that are padding in every row."""
    left = int(inputs["prompt_mask"].any(0).nonzero()[0])
    used = inputs["completion_mask"].any(0).nonzero()
    right = int(used[-1]) + 1 if len(used) else 1
    out = dict(inputs)
    for name in ("prompt_ids", "prompt_mask"):
        out[name] = inputs[name][:, left:]
    for name in (
        "completion_ids",
        "completion_mask",
        "tool_mask",
        "old_per_token_logps",
        "ref_per_token_logps",
    ):
        if inputs.get(name) is not None:
            out[name] = inputs[name][:, :right]
    return out


# ---- rollouts for GRPOTrainer ----------------------------------------------------------------


class _Rollouts:
    """TRL's `rollout_func`: plays the batch that the prompts name and returns its token rows."""

    def __init__(
        self, tasks: Sequence[Task], play: Play, config: GRPOConfig, make_engine: MakeEngine
    ) -> None:
        self._tasks, self._play, self._config = tasks, play, config
        self._make_engine = make_engine
        self._engine: Engine | None = None
        self._fresh: Played | None = None
        self.last: Played | None = None

    def rows(self) -> list[dict[str, Any]]:
        """Return TRL's dataset: a prompt a place in the schedule. Only the place is read again."""
        return [
            {"prompt": [{"role": "user", "content": task.user_turns[0], "place": str(place)}]}
            for place, task in enumerate(self._tasks)
        ]

    def take_fresh(self) -> Played | None:
        """Return the batch played since the last call, or None where the step reused one."""
        fresh, self._fresh = self._fresh, None
        return fresh

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        # TRL hands each prompt over `group_size` times in a row.
        places = [int(prompt[-1]["place"]) for prompt in prompts[:: self._config.group_size]]
        number = places[0] // self._config.tasks_per_step
        if self._engine is None:
            self._engine = self._make_engine(trainer.model)
        renew = getattr(self._engine, "new_weights", None)
        if renew is not None:
            renew()
        training = trainer.model.training
        trainer.model.eval()
        try:
            played = self._play(self._engine, [self._tasks[place] for place in places], number)
        finally:
            trainer.model.train(training)
        self._fresh = self.last = played
        end = trainer.processing_class.eos_token_id
        out: dict[str, Any] = {
            "prompt_ids": [],
            "completion_ids": [],
            "env_mask": [],
            "rollout": [],
        }
        for group in played.groups:
            segments = [trained_segment(rollout) for rollout in group]
            prompt = next((s.prompt_ids for s in segments if s), (end,))
            for rollout, segment in zip(group, segments, strict=True):
                # TRL needs at least one id; one without loss stands for a rollout that wrote nothing.
                out["prompt_ids"].append(list(segment.prompt_ids if segment else prompt))
                out["completion_ids"].append(list(segment.completion_ids) if segment else [end])
                out["env_mask"].append(list(segment.mask) if segment else [0])
                out["rollout"].append(rollout)
        return {**out, "logprobs": None}


def _reward(
    completions: Sequence[Any],
    rollout: Sequence[Rollout],
    log_metric: Callable[[str, float], None],
    **_: Any,
) -> list[float | None]:
    """Return the hybrid totals; None, which TRL leaves out of its group, for failed infrastructure."""
    metrics = msgspec.to_builtins(metrics_of([rollout]))
    for name, value in metrics.items():
        if isinstance(value, int | float):
            log_metric(f"rollout/{name}", float(value))
        elif isinstance(value, dict):
            for key, share in value.items():
                log_metric(f"rollout/{name}/{key}", float(share))
    return [one.reward.total if one.reward else None for one in rollout]


class _GRPOCurve:
    """Turns what TRL logs and what the rollouts were like into points."""

    def __init__(self, curve: _Curve[GRPOPoint], rollouts: _Rollouts) -> None:
        self._curve, self._rollouts = curve, rollouts
        self._seconds = curve.seconds()

    def __call__(self, step: int, logs: Mapping[str, Any]) -> Mapping[str, float]:
        fresh, last = self._rollouts.take_fresh(), self._rollouts.last
        if last is None:
            raise RuntimeError("a step was logged before any rollout")
        now = self._curve.seconds()
        rollout_s = fresh.seconds if fresh else 0.0
        point = GRPOPoint(
            step=step,
            batch=last.metrics,
            loss=float(logs["loss"]),
            lr=float(logs["learning_rate"]),
            kl=_number(logs, "kl"),
            entropy=_number(logs, "entropy"),
            grad_norm=_number(logs, "grad_norm"),
            clip_share=_number(logs, "clip_ratio/region_mean", "cispo_clip_ratio"),
            rollout_s=rollout_s,
            train_s=max(0.0, now - self._seconds - rollout_s),
            seconds=now,
        )
        self._seconds = now
        self._curve.add(point)
        told = {
            "reward": point.batch.reward,
            "accuracy": point.batch.accuracy,
            "answer": point.batch.answer,
            "group_std": point.batch.group_std,
            "kl": point.kl,
            "live_calls": point.batch.live_calls,
        }
        return {name: float(value) for name, value in told.items() if value is not None}


# ---- loading and saving ----------------------------------------------------------------------


def _load(model: str, dtype: Dtype) -> tuple[Any, Any]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        loaded = AutoModelForCausalLM.from_pretrained(
            model, dtype=dtype.value, attn_implementation="sdpa"
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{model}: cannot be loaded for training ({type(error).__name__}: {reason}). Give a folder "
            "with config.json, weights and a tokenizer, or a Hugging Face id this machine can reach."
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return loaded, tokenizer


def _peft(lora: LoRA | None) -> Any:
    if lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) or "all-linear",
    )


def _save(model: Any, tokenizer: Any, out: Path) -> None:
    """Write model, tokenizer and chat template as one folder that appears whole or not at all."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    # The fused LM head that TRL put over `forward` is no part of the weights.
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    for name in temporary.iterdir():
        descriptor = os.open(name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    if out.exists():
        shutil.rmtree(out)
    temporary.replace(out)


def _step_of(checkpoint: Path) -> int | None:
    """Return the step of a whole checkpoint, or None for what a killed process left half written.

    `trainer_state.json` is written last: where it is missing or torn, the rest is not to be trusted.
    """
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        return int(state["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def last_checkpoint(work: Path) -> tuple[Path, int] | None:
    """Return the newest whole checkpoint of a work folder and its step, or None."""
    steps = {folder: _step_of(folder) for folder in work.glob("checkpoint-*")}
    whole = [(step, folder) for folder, step in steps.items() if step is not None]
    if not whole:
        return None
    step, folder = max(whole)
    return folder, step


def _begin(work: Path) -> tuple[Path | None, int]:
    """Return the checkpoint to go on from and its step, after clearing away torn ones."""
    work.mkdir(parents=True, exist_ok=True)
    for folder in work.glob("checkpoint-*"):
        if _step_of(folder) is None:
            shutil.rmtree(folder)  # TRL would write a new checkpoint into it
    return last_checkpoint(work) or (None, 0)


class _Curve(Generic[P]):
    """`curve.jsonl`: one point a step. Opening cuts off what lies beyond the step gone on from."""

    def __init__(self, path: Path, kind: type[P], step: int) -> None:
        self.points: list[P] = []
        if path.exists():
            kept = read_jsonl(path, kind, drop_torn_tail=True)
            self.points = [point for point in kept if point.step <= step]
        write_jsonl(path, self.points)
        self._file = JsonlAppender(path)
        self._before = self.points[-1].seconds if self.points else 0.0
        self._started = time.perf_counter()

    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._started

    def add(self, point: P) -> None:
        self._file.append(point)
        self.points.append(point)

    def close(self) -> None:
        self._file.close()


class _Report(TrainerCallback):
    """Hands what the trainer logs for one optimizer step to `told`, and progress to the caller."""

    def __init__(
        self,
        told: Callable[[int, Mapping[str, Any]], Mapping[str, float]],
        on_progress: Progress | None,
    ) -> None:
        self._told, self._on_progress = told, on_progress

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:
            return  # the closing summary of a run
        metrics = self._told(state.global_step, logs)
        if self._on_progress:
            self._on_progress(state.global_step, state.max_steps, metrics)


def _arguments(config: SFTConfig | GRPOConfig, work: Path, steps: int) -> dict[str, Any]:
    """Return what both trainers are told alike."""
    # A checkpoint between two steps on the same rollouts would play them again.
    every = config.iterations if isinstance(config, GRPOConfig) else 1
    save_every = -(-config.save_every // every) * every
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(work),
        "max_steps": steps,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.scheduler.value,
        "warmup_steps": config.warmup,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.grad_clip,
        "seed": config.seed,
        "data_seed": config.seed,
        "logging_steps": 1,
        "logging_first_step": True,
        "save_strategy": "steps",
        "save_steps": save_every,
        "save_total_limit": KEEP_CHECKPOINTS,
        "gradient_checkpointing": config.gradient_checkpointing,
        # TRL turns autocast on by default; weights are trained in the format they are kept in.
        "bf16": on_gpu and config.dtype is Dtype.BFLOAT16,
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "dataloader_num_workers": 0,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' own chatter off the terminal that shows our progress."""
    logs = transformers.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", module=r"(transformers|trl|peft|accelerate|datasets).*"
            )
            yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()
        datasets.enable_progress_bars()


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the matrices within the layers, AdamW for the rest, as one optimizer.

    Muon orthogonalises an update and so has no business with embeddings, whose rows are looked up one
    by one. Schedulers see both through the shared `param_groups`.
    """

    def __init__(self, model: Any, config: SFTConfig) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        tied = {id(model.get_input_embeddings().weight)}
        if (head := model.get_output_embeddings()) is not None:
            tied.add(id(head.weight))
        matrices = [p for _, p in named if p.ndim == 2 and id(p) not in tied]
        chosen = set(map(id, matrices))
        self._parts: list[Any] = [
            torch.optim.Muon(
                matrices,
                lr=config.matrix_learning_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="original",
            ),
            torch.optim.AdamW(
                [p for _, p in named if id(p) not in chosen],
                lr=config.learning_rate,
                betas=(0.9, config.adam_beta2),
                weight_decay=config.weight_decay,
            ),
        ]
        super().__init__([{"params": [p for _, p in named]}], {})
        self._share()

    def _share(self) -> None:
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    def step(self, closure: Any = None) -> Any:
        loss = closure() if closure is not None else None
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {
            "parts": [part.state_dict() for part in self._parts],
            "state": {},
            "param_groups": [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, saved in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(saved)
        self._share()


def _optimizers(model: Any, config: SFTConfig) -> tuple[Any, None]:
    """Return what the trainer takes: an optimizer or None for its own, and None for its schedule."""
    return (MuonAdamW(model, config) if config.optimizer is Optimizer.MUON else None), None


def _may_share(config: SFTConfig | GRPOConfig, trainer: Any) -> bool:
    """Two passes a step need whole activations, full attention and no wrapper that counts passes (DDP)."""
    kinds = set(getattr(trainer.model.config.get_text_config(), "layer_types", None) or ())
    return (
        config.share_prefix
        and not config.gradient_checkpointing
        and trainer.accelerator.num_processes == 1
        and kinds <= {"full_attention"}
    )


def _number(logs: Mapping[str, Any], *names: str) -> float | None:
    for name in names:
        if logs.get(name) is not None:
            return float(logs[name])
    return None


class TRLTrainer:
    """`SupervisedTrainer` and `PolicyTrainer` by TRL, on one machine."""

    def __init__(self, make_engine: MakeEngine | None = None) -> None:
        """`make_engine` samples the rollouts of `train`; `fit` needs none."""
        self._make_engine = make_engine

    # ---- supervised

    def fit(
        self,
        examples: Sequence[Example],
        config: SFTConfig,
        *,
        model: str,
        out: Path,
        work: Path,
        on_progress: Progress | None,
    ) -> tuple[list[SFTPoint], int]:
        """See `SupervisedTrainer.fit`."""
        checkpoint, resumed_from = _begin(work)
        curve = _Curve(work / "curve.jsonl", SFTPoint, resumed_from)
        with _quiet(), contextlib.closing(curve):
            policy, tokenizer = _load(model, config.dtype)
            rows = datasets.Dataset.from_dict(
                {"input_ids": [e.ids for e in examples], "labels": [e.labels for e in examples]}
            )
            steps = steps_of(len(examples), config)
            read_before = curve.points[-1].tokens if curve.points else 0

            def told(step: int, logs: Mapping[str, Any]) -> Mapping[str, float]:
                point = SFTPoint(
                    step=step,
                    loss=float(logs["loss"]),
                    lr=float(logs["learning_rate"]),
                    tokens=read_before + int(logs.get("num_tokens") or 0),
                    seconds=curve.seconds(),
                    grad_norm=_number(logs, "grad_norm"),
                    accuracy=_number(logs, "mean_token_accuracy"),
                )
                curve.add(point)
                return {"loss": point.loss, "lr": point.lr, "tokens": point.tokens}

            trainer = _SFT(
                model=policy,
                args=trl.SFTConfig(
                    **_arguments(config, work, steps),
                    per_device_train_batch_size=config.micro_batch_rows,
                    gradient_accumulation_steps=config.batch_rows // config.micro_batch_rows,
                    adam_beta2=config.adam_beta2,
                    train_sampling_strategy="sequential",  # our schedule is the order
                    shuffle_dataset=False,
                    max_length=None,
                    dataset_kwargs={"skip_prepare_dataset": True},
                ),
                # One pass over a dataset that holds every row as often as it is trained on, in order: the
                # place to go on from after a kill is then a number.
                train_dataset=rows.select(schedule(examples, config)),
                processing_class=tokenizer,
                peft_config=_peft(config.lora),
                optimizers=_optimizers(policy, config),
                callbacks=[_Report(told, on_progress)],
            )
            trainer.share_prefix = _may_share(config, trainer)
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            _save(trainer.accelerator.unwrap_model(trainer.model), tokenizer, out)
        return curve.points, resumed_from

    # ---- policy

    def train(
        self,
        tasks: Sequence[Task],
        play: Play,
        config: GRPOConfig,
        *,
        model: str,
        out: Path,
        work: Path,
        on_progress: Progress | None,
    ) -> tuple[list[GRPOPoint], int]:
        """See `PolicyTrainer.train`."""
        if self._make_engine is None:
            raise ValueError("TRLTrainer needs make_engine to train a policy")
        checkpoint, resumed_from = _begin(work)
        curve = _Curve(work / "curve.jsonl", GRPOPoint, resumed_from)
        with _quiet(), contextlib.closing(curve):
            policy, tokenizer = _load(model, config.dtype)
            rollouts = _Rollouts(tasks, play, config, self._make_engine)
            rows = config.tasks_per_step * config.group_size
            micro = config.micro_batch_rows or config.group_size
            trainer = _GRPO(
                model=policy,
                reward_funcs=_reward,
                args=trl.GRPOConfig(
                    **_arguments(config, work, config.steps * config.iterations),
                    per_device_train_batch_size=micro,
                    gradient_accumulation_steps=rows // micro,
                    steps_per_generation=rows // micro,
                    num_generations=config.group_size,
                    num_iterations=config.iterations,
                    shuffle_dataset=False,  # our schedule is the order
                    max_completion_length=config.budget_tokens,
                    beta=config.beta,
                    loss_type=config.loss.value,
                    scale_rewards=config.scale_rewards.value,
                    epsilon=config.clip,
                    epsilon_high=config.clip_high,
                    temperature=config.temperature,
                    log_completions=False,
                ),
                train_dataset=datasets.Dataset.from_list(rollouts.rows()),
                processing_class=tokenizer,
                peft_config=_peft(config.lora),
                rollout_func=rollouts,
                callbacks=[_Report(_GRPOCurve(curve, rollouts), on_progress)],
            )
            trainer.share_prefix = _may_share(config, trainer)
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            _save(trainer.accelerator.unwrap_model(trainer.model), tokenizer, out)
        return curve.points, resumed_from
