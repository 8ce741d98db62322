"""TRL behind our seams: the same gradients with less reading, exact masks, no step lost to a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from cacherl.adapters import trl_trainer
from cacherl.adapters.transformers_engine import TransformersEngine
from cacherl.adapters.trl_trainer import MuonAdamW, TRLTrainer, last_checkpoint, shared_inputs
from cacherl.core.errors import ModelError
from cacherl.core.jsonl import read_jsonl
from cacherl.core.training import LoRA, Optimizer
from cacherl.core.trajectories import TokenSegment
from cacherl.grpo import GRPOConfig, GRPOPoint, Played, grpo, trained_segment
from cacherl.sft import IGNORED, Example, SFTConfig, SFTPoint
from cacherl.token_chat import Sampled
from tests.training_kit import (
    LIMITS,
    Buttons,
    button_task,
    codec,
    tiny_checkpoint,
    train_grpo,
    train_sft,
)

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """A tiny model is not faster on more threads, and the machine has two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model."""
    return tiny_checkpoint(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def taught(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that presses either button, half and half."""
    folder = tmp_path_factory.mktemp("taught")
    train_sft(base, folder, steps=250, save_every=1000)
    return folder / "out"


def weights(folder: Path) -> dict[str, Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def rows(lengths: Sequence[tuple[int, int]], common: int, seed: int = 0) -> list[Example]:
    """Return rows of (prompt, completion) lengths whose first `common` ids agree."""
    rng = torch.Generator().manual_seed(seed)
    shared = torch.randint(0, 250, (common,), generator=rng).tolist()
    out = []
    for number, (prompt, completion) in enumerate(lengths):
        tail = torch.randint(0, 250, (prompt + completion - common,), generator=rng).tolist()
        tail[0] = number  # so that the common beginning ends where it should
        mask = [0] * prompt + [1] * completion
        mask[prompt + 1] = 0  # an injected id
        out.append(Example(ids=(*shared, *tail), mask=tuple(mask), head=common))
    return out


def padded(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    def stack(lists: list[list[int]], value: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(one) for one in lists], batch_first=True, padding_value=value
        )

    return (
        stack([list(e.ids) for e in examples], 256),
        stack([[1] * len(e.ids) for e in examples], 0),
        stack([e.labels for e in examples], IGNORED),
    )


# ---- reading the common beginning once -------------------------------------------------------


@pytest.mark.parametrize("common", [0, 10, 40, 57, 64])
def test_sharing_the_beginning_changes_neither_loss_nor_gradient(base: Path, common: int) -> None:
    """The saving must be exact: a wrong position or mask would train another objective in silence."""
    model = AutoModelForCausalLM.from_pretrained(base)
    ids, attention, labels = padded(rows([(64, 30), (70, 12), (64, 25), (90, 7)], common))
    plain = model(input_ids=ids, attention_mask=attention, labels=labels)
    plain.loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    inputs, length = shared_inputs(model, ids, attention, labels)
    shared = model(**inputs)
    shared.loss.backward()

    # The id before the first label (number 64) stays in its row.
    assert length == (min(common, 63) if common >= trl_trainer.SHARE_TOKENS else 0)
    assert shared.loss.item() == pytest.approx(plain.loss.item(), abs=1e-5)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], atol=2e-5, rtol=1e-3)


def test_rows_that_are_all_alike_keep_what_their_labels_are_predicted_from(base: Path) -> None:
    """Equal rollouts share everything, and the first label still needs the id before it."""
    model = AutoModelForCausalLM.from_pretrained(base)
    [one] = rows([(64, 30)], 40)
    ids, attention, labels = padded([one, one, one])

    inputs, length = shared_inputs(model, ids, attention, labels)

    assert length == 63
    assert (inputs["labels"] != IGNORED).sum() == 3 * sum(one.mask)


# ---- supervised ------------------------------------------------------------------------------


class _Spy:
    """Records what reaches a module's forward."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[int], list[int]]] = []

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("labels") is None:
            return
        marks = kwargs["attention_mask"][:, -kwargs["input_ids"].shape[1] :].bool()
        for ids, labels, mark in zip(kwargs["input_ids"], kwargs["labels"], marks, strict=True):
            self.seen.append((ids[mark].tolist(), labels[mark].tolist()))


@pytest.mark.parametrize("share", [True, False])
def test_the_loss_falls_on_the_masked_ids_and_nowhere_else(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: bool
) -> None:
    """The mask that reaches the model is the codec's, id for id: the promise SFT stands on."""
    spy = _Spy()
    load = trl_trainer._load

    def watched(model: str, dtype: Any) -> Any:
        policy, tokenizer = load(model, dtype)
        policy.register_forward_pre_hook(spy, with_kwargs=True)
        return policy, tokenizer

    monkeypatch.setattr(trl_trainer, "_load", watched)
    examples = rows([(64, 30), (70, 12), (64, 25), (90, 7)], 50)

    TRLTrainer().fit(
        examples,
        SFTConfig(batch_rows=4, micro_batch_rows=4, max_steps=1, share_prefix=share),
        model=str(base),
        out=tmp_path / "out",
        work=tmp_path / "work",
        on_progress=None,
    )

    cut = 50 if share else 0
    assert sorted(spy.seen) == sorted((list(e.ids[cut:]), e.labels[cut:]) for e in examples)


def test_sft_learns_and_leaves_a_model_that_loads(taught: Path) -> None:
    """The loss the model was trained on is the loss it has: near ln 2 for the one open choice."""
    points = list(read_jsonl(taught.parent / "work" / "curve.jsonl", SFTPoint))

    assert [point.step for point in points] == list(range(1, 251))
    assert points[0].loss > 4.0
    assert points[-1].loss < 0.06  # ln 2 over about 40 ids is 0.017
    assert AutoTokenizer.from_pretrained(taught).chat_template
    assert AutoModelForCausalLM.from_pretrained(taught).config.model_type == "qwen3"


def muon_step(model: Any, optimizer: MuonAdamW, number: int) -> None:
    ids = torch.arange(24)[None] + number
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def test_muon_goes_on_from_its_saved_state_as_if_nothing_had_happened(
    base: Path, tmp_path: Path
) -> None:
    """Momentum lost in a resume would make the killed run another run."""
    config = SFTConfig(optimizer=Optimizer.MUON)
    whole = AutoModelForCausalLM.from_pretrained(base)
    optimizer = MuonAdamW(whole, config)
    muon_step(whole, optimizer, 0)
    whole.save_pretrained(tmp_path)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    resumed = AutoModelForCausalLM.from_pretrained(tmp_path)
    again = MuonAdamW(resumed, config)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))

    muon_step(whole, optimizer, 1)
    muon_step(resumed, again, 1)

    after = dict(resumed.named_parameters())
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, after[name]), name


def test_muon_leaves_embeddings_to_adamw_and_the_schedule_reaches_both(base: Path) -> None:
    """Orthogonalised embeddings would be nonsense, a frozen rate a silent bug."""
    model = AutoModelForCausalLM.from_pretrained(base)
    optimizer = MuonAdamW(model, SFTConfig(optimizer=Optimizer.MUON))
    muon, adamw = optimizer.param_groups

    embedding = id(model.get_input_embeddings().weight)
    assert embedding in {id(p) for p in adamw["params"]}
    assert all(p.ndim == 2 for p in muon["params"])
    assert len(muon["params"]) + len(adamw["params"]) == len(list(model.parameters()))
    before = [p.clone() for p in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    muon_step(model, optimizer, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_lora_is_merged_into_what_is_saved(base: Path, tmp_path: Path) -> None:
    """A stage after this one needs no PEFT to load the model, and no base beside it."""
    examples = rows([(64, 30), (70, 12)], 50)
    config = SFTConfig(
        batch_rows=2, micro_batch_rows=2, max_steps=3, learning_rate=1e-2, lora=LoRA(rank=4)
    )

    TRLTrainer().fit(
        examples,
        config,
        model=str(base),
        out=tmp_path / "out",
        work=tmp_path / "work",
        on_progress=None,
    )

    before, after = weights(base), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    assert not torch.equal(
        before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"]
    )


def test_a_model_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    """A typing error in a recipe must not end in a stack of library frames."""
    with pytest.raises(ModelError, match="cannot be loaded for training"):
        TRLTrainer().fit(
            rows([(64, 30)], 0),
            SFTConfig(batch_rows=1, micro_batch_rows=1, max_steps=1),
            model=str(tmp_path / "nowhere"),
            out=tmp_path / "out",
            work=tmp_path / "work",
            on_progress=None,
        )


# ---- policy ----------------------------------------------------------------------------------


def test_grpo_learns_which_button_is_right_from_reward_alone(taught: Path, tmp_path: Path) -> None:
    """The whole path: rollouts, masks, rewards, advantages, update. Nothing live runs."""
    told: list[tuple[int, int]] = []

    summary = train_grpo(taught, tmp_path, on_progress=lambda s, total, _: told.append((s, total)))

    points = list(read_jsonl(tmp_path / "work" / "curve.jsonl", GRPOPoint))
    accuracy = [point.batch.accuracy or 0.0 for point in points]
    assert sum(accuracy[:2]) / 2 < 0.7
    assert sum(accuracy[-5:]) / 5 > 0.85
    assert summary.final_reward > summary.first_reward
    assert summary.live_calls == 0
    assert told == [(step, 20) for step in range(1, 21)]


class _Batches:
    """Records the token rows that TRL makes of rollouts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.played: list[Played] = []
        self.rows: list[dict[str, Tensor]] = []
        call = trl_trainer._Rollouts.__call__
        loss = trl_trainer._GRPO._compute_loss

        def keep_played(rollouts: Any, prompts: Any, trainer: Any) -> Any:
            out = call(rollouts, prompts, trainer)
            self.played.append(rollouts.last)
            return out

        def keep_rows(trainer: Any, model: Any, inputs: Any) -> Any:
            self.rows.append(inputs)
            return loss(trainer, model, inputs)

        monkeypatch.setattr(trl_trainer._Rollouts, "__call__", keep_played)
        monkeypatch.setattr(trl_trainer._GRPO, "_compute_loss", keep_rows)

    def trained(self) -> list[TokenSegment]:
        out = []
        for inputs in self.rows:
            for row in range(len(inputs["prompt_ids"])):
                real = inputs["completion_mask"][row].bool()
                prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()]
                out.append(
                    TokenSegment(
                        prompt_ids=tuple(prompt.tolist()),
                        completion_ids=tuple(inputs["completion_ids"][row][real].tolist()),
                        mask=tuple(inputs["tool_mask"][row][real].tolist()),
                    )
                )
        return out


@pytest.mark.parametrize("turns", [1, 2])
def test_what_trains_is_what_was_sampled_to_the_last_id(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """No id is re-tokenized, dropped or shifted, and injected ids stay without loss; rollouts of a
    conversation with two user turns train its two segments in turn."""
    batches = _Batches(monkeypatch)

    train_grpo(taught, tmp_path, steps=2, turns=turns, save_every=100)

    segments = [
        trained_segment(rollout)
        for played in batches.played
        for group in played.groups
        for rollout in group
    ]
    expected = [msgspec.structs.replace(s, logprobs=None) for s in segments if s is not None]
    assert batches.trained() == expected
    assert len({len(rollout.trajectory.segments) for rollout in batches.played[0].groups[0]}) == 1
    assert any(0 in segment.mask for segment in expected)


def test_sharing_and_trimming_leave_grpo_as_trl_has_it(taught: Path, tmp_path: Path) -> None:
    """One step of our trainer and of TRL's own passes end at the same weights, KL included."""
    ends = []
    for share in (True, False):
        folder = tmp_path / str(share)
        train_grpo(taught, folder, steps=2, share_prefix=share, beta=0.1, save_every=100)
        ends.append(weights(folder / "out"))

    for name, ours in ends[0].items():
        torch.testing.assert_close(ours, ends[1][name], atol=1e-4, rtol=1e-3)
    points = list(read_jsonl(tmp_path / "True" / "work" / "curve.jsonl", GRPOPoint))
    assert points[0].kl == pytest.approx(0.0, abs=1e-5)
    assert points[1].kl is not None
    assert points[1].kl > 0.0


def test_lora_reference_and_several_iterations_work_together(taught: Path, tmp_path: Path) -> None:
    """The paper's settings (LoRA, beta 0.15) with reused rollouts, at toy size."""
    summary = train_grpo(
        taught, tmp_path, steps=2, iterations=2, beta=0.15, lora=LoRA(rank=4), save_every=100
    )

    points = list(read_jsonl(tmp_path / "work" / "curve.jsonl", GRPOPoint))
    assert [point.rollout_s > 0 for point in points] == [True, False, True, False]
    assert summary.rollouts == 64
    assert points[-1].kl is not None


class _Dying(TransformersEngine):
    """An engine whose first three conversations are lost."""

    lost = 0

    async def generate(self, session: str, ids: Sequence[int], **how: Any) -> Sampled:
        if self.lost < 3:
            self.lost += 1
            raise ModelError("the server is gone. Start it again.")
        return await super().generate(session, ids, **how)


def test_rollouts_without_ids_train_nothing_and_stop_nothing(taught: Path, tmp_path: Path) -> None:
    """A lost server must not end a night of training, nor count against the policy."""
    summary = grpo(
        [button_task(0)],
        lambda task, seed, rollout: Buttons(),
        codec(taught),
        TRLTrainer(_Dying),
        GRPOConfig(steps=1, tasks_per_step=1, group_size=4, beta=0.0, lora=None),
        model=str(taught),
        out=tmp_path / "out",
        work=tmp_path / "work",
        limits=LIMITS,
    )

    assert summary.failed == 3
    assert (tmp_path / "out" / "model.safetensors").exists()


# ---- kills -----------------------------------------------------------------------------------


def run_and_kill(what: str, base: Path, folder: Path, after: int) -> None:
    """Train in a process of its own and kill it without warning once `after` steps are told."""
    environment = {**os.environ, "PYTHONPATH": f"{REPO / 'src'}:{REPO}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.training_kit", what, str(base), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=REPO,
    )
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if line.startswith(f"{after}/"):
                process.send_signal(signal.SIGKILL)
                break
    assert process.wait() == -signal.SIGKILL


def tear(work: Path) -> None:
    """Leave behind what a kill in the middle of writing a checkpoint leaves."""
    torn = work / "checkpoint-999"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")


def test_sft_killed_at_any_point_ends_as_if_it_had_not_been(base: Path, tmp_path: Path) -> None:
    """Same rows, same order, same weights: a kill costs at most the steps since the last checkpoint."""
    run_and_kill("sft", base, tmp_path / "killed", after=13)
    assert not (tmp_path / "killed" / "out").exists()
    tear(tmp_path / "killed" / "work")

    resumed = train_sft(base, tmp_path / "killed", steps=60)
    whole = train_sft(base, tmp_path / "whole", steps=60, save_every=1000)

    assert resumed.resumed_from >= 10
    assert resumed.steps == whole.steps == 60
    points = list(read_jsonl(tmp_path / "killed" / "work" / "curve.jsonl", SFTPoint))
    assert [point.step for point in points] == list(range(1, 61))
    ours, theirs = weights(tmp_path / "killed" / "out"), weights(tmp_path / "whole" / "out")
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=1e-3)


def test_grpo_killed_at_any_point_reaches_the_last_step(taught: Path, tmp_path: Path) -> None:
    """Rollouts are dear: those before the last checkpoint are never played again."""
    run_and_kill("grpo", taught, tmp_path, after=5)
    tear(tmp_path / "work")

    summary = train_grpo(taught, tmp_path, steps=12)

    assert summary.resumed_from >= 4
    points = list(read_jsonl(tmp_path / "work" / "curve.jsonl", GRPOPoint))
    assert [point.step for point in points] == list(range(1, 13))
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_a_run_killed_after_its_last_step_only_saves(base: Path, tmp_path: Path) -> None:
    """The step after the last is not a step, and the curve stays what it was."""
    whole = train_sft(base, tmp_path, steps=4)
    before = weights(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "gone")

    again = train_sft(base, tmp_path, steps=4)

    assert (again.resumed_from, again.steps) == (4, 4)
    assert again.final_loss == whole.final_loss
    for name, weight in weights(tmp_path / "out").items():
        assert torch.equal(weight, before[name])


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path) -> None:
    """The newest folder is not the newest checkpoint when the process died while writing it."""
    for step, state in ((5, '{"global_step": 5}'), (10, '{"global_st')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(state, encoding="utf-8")

    assert last_checkpoint(tmp_path) == (tmp_path / "checkpoint-5", 5)
