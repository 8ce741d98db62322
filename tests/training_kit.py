"""A toy to train on for real: a tiny Qwen3, a byte tokenizer, and tasks with two buttons.

Run as a program it trains in a process of its own, so that tests can kill it:
`python -m tests.training_kit sft|grpo BASE FOLDER`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cacherl.core.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.models import Limits
from cacherl.core.tasks import AnswerRule, Gold, GoldCall, Split, Task
from cacherl.core.tools import Source, Tier, ToolResult, ToolSpec
from cacherl.core.training import Scheduler
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.grpo import GRPOConfig, GRPOSummary, Scale, grpo
from cacherl.render import ChatCodec, Template
from cacherl.sft import SFTConfig, SFTSummary, sft

BUTTONS = tuple(
    ToolSpec(name=name, description="", parameters={"type": "object", "properties": {}})
    for name in ("red", "blue")
)
LIMITS = Limits(max_turns=3, max_turn_tokens=64, max_context_tokens=1400, max_result_tokens=32)


def tiny_checkpoint(folder: Path, *, seed: int = 0, hidden: int = 32, layers: int = 2) -> Path:
    """Write a random Qwen3 with a byte-level tokenizer of Hugging Face's kind."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    specials = [
        *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
        *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    ]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=272,
            hidden_size=hidden,
            intermediate_size=hidden * 2,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=hidden // 2,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            eos_token_id=258,
            pad_token_id=256,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def codec(folder: Path) -> ChatCodec:
    """Return the chat codec of a checkpoint."""
    from transformers import AutoTokenizer

    from cacherl.adapters.transformers_engine import HFTokenizer

    return ChatCodec(
        HFTokenizer(AutoTokenizer.from_pretrained(str(folder))), Template.QWEN3_NO_THINKING
    )


def button_task(number: int, *, right: str = "red", turns: int = 1) -> Task:
    """Return a task that asks for a button press; the right one is a secret that only reward tells."""
    return Task(
        id=f"t{number}",
        split=Split.TRAIN,
        family="buttons",
        language="en",
        wording="a",
        scenario="s",
        namespace="buttons",
        system="",
        user_turns=(f"press {number}",) * turns,
        tools=BUTTONS,
        gold=Gold(
            calls=tuple(GoldCall(name=right, arguments={}, step=i) for i in range(turns)),
            answer=AnswerRule(must=(("ok",),)),
            state="",
        ),
    )


def button_trajectory(task: Task, button: str) -> Trajectory:
    """Return an episode that presses one button a user turn and says ok."""
    messages: list[Message] = [SystemMessage(content=task.system)] if task.system else []
    for number, text in enumerate(task.user_turns):
        call = ToolCall(id=f"call_{number}", name=button, arguments={})
        messages += [
            UserMessage(content=text),
            AssistantMessage(calls=(call,)),
            ToolMessage(call_id=call.id, name=button, content="1"),
            AssistantMessage(content="ok"),
        ]
    return Trajectory(
        task_id=task.id,
        policy="script",
        messages=tuple(messages),
        results=(),
        stop=StopReason.ANSWER,
    )


class Buttons:
    """Tools that answer from a recording: every press gives 1."""

    async def call(self, call: ToolCall) -> ToolResult:
        return ToolResult(
            call_id=call.id, name=call.name, text="1", tier=Tier.EXACT, source=Source.LIVE
        )

    async def aclose(self) -> None:
        pass


def train_sft(
    base: Path, folder: Path, *, steps: int = 120, on_progress: Any = None, **more: Any
) -> SFTSummary:
    """Teach the toy to press either button, half and half."""
    from cacherl.adapters.trl_trainer import TRLTrainer

    tasks = {f"t{n}": button_task(n) for n in range(4)}
    config = {
        "learning_rate": 1e-2,
        "scheduler": Scheduler.COSINE,
        "batch_rows": 8,
        "micro_batch_rows": 8,
        "max_steps": steps,
        "save_every": 5,
        "adam_beta2": 0.98,
        **more,
    }
    return sft(
        tasks,
        [button_trajectory(task, b) for task in tasks.values() for b in ("red", "blue")],
        codec(base),
        TRLTrainer(),
        SFTConfig(**config),
        model=str(base),
        out=folder / "out",
        work=folder / "work",
        on_progress=on_progress,
    )


def train_grpo(
    base: Path,
    folder: Path,
    *,
    steps: int = 20,
    on_progress: Any = None,
    turns: int = 1,
    **more: Any,
) -> GRPOSummary:
    """Teach the toy by reward alone that red is right."""
    from cacherl.adapters.transformers_engine import TransformersEngine
    from cacherl.adapters.trl_trainer import TRLTrainer

    config = {
        "steps": steps,
        "tasks_per_step": 4,
        "group_size": 8,
        "learning_rate": 1e-3,
        "beta": 0.0,
        "lora": None,
        "scale_rewards": Scale.GROUP,
        "save_every": 2,
        **more,
    }
    return grpo(
        [button_task(n, turns=turns) for n in range(4)],
        lambda task, seed, rollout: Buttons(),
        codec(base),
        TRLTrainer(lambda model: TransformersEngine(model, seed=0)),
        GRPOConfig(**config),
        model=str(base),
        out=folder / "out",
        work=folder / "work",
        limits=LIMITS,
        on_progress=on_progress,
    )


def _say(step: int, total: int, metrics: Mapping[str, float]) -> None:
    print(f"{step}/{total} {dict(metrics)}", flush=True)  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    what, base_, folder_ = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if what == "sft":
        train_sft(base_, folder_, steps=60, on_progress=_say)
    else:
        train_grpo(base_, folder_, steps=12, on_progress=_say)
