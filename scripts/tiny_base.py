"""Build the tiny base model that the project ships: tokenizer, then weights.

    python scripts/tiny_base.py --out models/tiny-base            # everything, from nothing
    python scripts/tiny_base.py --out DIR --minutes 1             # a short run, to try it

Qwen3's architecture, special tokens, pre-tokenisation and Thinking-2507 chat template; about 1.4 M
parameters. Pre-training is next-token prediction on the assistant's turns of generated tool-call
conversations (`tiny_corpus.py`): random schemas, names, ids and values, English and French. The
support desk is never seen.

Conversations of one group share their system message and tools; that prefix goes through the model once
and its keys and values serve the whole group, gradients included. It cuts the tokens by two thirds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_corpus import EN_WORDS, FR_WORDS, Corpus, Group
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch.nn import functional
from transformers import DynamicCache, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from cacherl.render import ChatCodec, Template

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Qwen3's added tokens in Qwen3's order; the last six are not "special" there either, so that a
# decoder shows them.
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
PLAIN = [
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
]
VOCABULARY = 2048


class Codes:
    """The `render.Tokenizer` over a `tokenizers.Tokenizer`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def build_tokenizer(seed: int) -> Tokenizer:
    """Train the byte-level BPE on generated conversations and on common English and French words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL) - len(PLAIN),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_texts(seed), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in PLAIN])
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise SystemExit(f"the tokenizer has {tokenizer.get_vocab_size()} tokens, not {VOCABULARY}")
    return tokenizer


def _tokenizer_texts(seed: int) -> Iterator[str]:
    corpus = Corpus(seed)
    codec = ChatCodec(Characters(), Template.QWEN3_THINKING_2507)
    for _ in range(400):
        group = corpus.group(3)
        for messages in group.conversations:
            yield codec.prompt_text(group.tools, messages)
    # Words as a frequency list gives them: rank r as often as 1/r, alone and after a space.
    for words in (EN_WORDS, FR_WORDS):
        for rank, word in enumerate(words):
            yield f" {word} {word.capitalize()} _{word}" * max(1, 1500 // (rank + 5))


class Characters:
    """A stand-in tokenizer for rendering text before there is a tokenizer."""

    def encode(self, text: str) -> list[int]:
        return [0] if text.startswith("<|") else [1] * len(text)

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError("only for rendering")


def config(tokenizer: Tokenizer) -> Qwen3Config:
    """Return the shape: 4 layers of width 160, 4 heads of 32, 2 key/value heads."""
    return Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        pad_token_id=tokenizer.token_to_id("<|endoftext|>"),
        attention_dropout=0.0,
        dtype="float32",
    )


class Batches:
    """Groups as tensors: prefixes [G, P] and, for each conversation of each group, the rest [G*K, T]."""

    def __init__(self, codec: ChatCodec, corpus: Corpus, pad: int, open_id: int) -> None:
        self.codec, self.corpus, self.pad, self.open_id = codec, corpus, pad, open_id

    def next(self, groups: int, size: int, max_rest: int) -> dict[str, torch.Tensor]:
        prefixes: list[list[int]] = []
        rows: list[tuple[int, list[int], list[int]]] = []
        for number in range(groups):
            group = self.corpus.group(size)
            head, rest = self.split(group)
            prefixes.append(head)
            rows += [(number, ids, mask) for ids, mask in rest if len(ids) <= max_rest]
        width = max(map(len, prefixes))
        prefix = torch.full((groups, width), self.pad)
        prefix_mask = torch.zeros((groups, width), dtype=torch.bool)
        for i, ids in enumerate(prefixes):  # left-padded: the rest must follow its last token
            prefix[i, width - len(ids) :] = torch.tensor(ids)
            prefix_mask[i, width - len(ids) :] = True
        length = max(len(ids) for _, ids, _ in rows)
        rest_ids = torch.full((len(rows), length), self.pad)
        labels = torch.full((len(rows), length), -100)
        rest_mask = torch.zeros((len(rows), length), dtype=torch.bool)
        for i, (_, ids, mask) in enumerate(rows):
            rest_ids[i, : len(ids)] = torch.tensor(ids)
            rest_mask[i, : len(ids)] = True
            labels[i, : len(ids)] = torch.tensor(
                [t if m else -100 for t, m in zip(ids, mask, strict=True)]
            )
        owner = torch.tensor([number for number, _, _ in rows])
        return {"prefix": prefix, "prefix_mask": prefix_mask, "rest": rest_ids, "rest_mask": rest_mask, "labels": labels, "owner": owner}  # fmt: skip

    def split(self, group: Group) -> tuple[list[int], list[tuple[list[int], list[int]]]]:
        prefix: list[int] = []
        rest = []
        for messages in group.conversations:
            for segment in self.codec.training_segments(group.tools, messages):
                prompt = list(segment.prompt_ids)
                cut = prompt.index(self.open_id, 1)  # the second <|im_start|>: the user's turn
                prefix = prompt[:cut]
                ids = prompt[cut:] + list(segment.completion_ids)
                rest.append((ids, [0] * (len(prompt) - cut) + list(segment.mask)))
        return prefix, rest


def loss_of(
    model: Qwen3ForCausalLM, batch: dict[str, torch.Tensor], chunks: int = 5
) -> tuple[torch.Tensor, float, int]:
    """Return (mean loss on model tokens, share predicted right, number of those tokens).

    The conversations go through in `chunks` of similar length, so that little of the work is padding.
    """
    prefix_mask = batch["prefix_mask"]
    positions = (prefix_mask.cumsum(1) - 1).clamp(min=0)
    past = DynamicCache()
    model.model(
        input_ids=batch["prefix"],
        attention_mask=prefix_mask.long(),
        position_ids=positions,
        past_key_values=past,
        use_cache=True,
    )
    order = batch["rest_mask"].sum(1).argsort()
    losses, right, count = [], 0, 0
    for rows in order.tensor_split(min(chunks, len(order))):
        rest_mask = batch["rest_mask"][rows]
        length = int(rest_mask.sum(1).max())
        rest_mask, owner = rest_mask[:, :length], batch["owner"][rows]
        shared = DynamicCache()
        for index, layer in enumerate(past.layers):
            shared.update(layer.keys[owner], layer.values[owner], index)
        rest_positions = prefix_mask.sum(1)[owner][:, None] + torch.arange(length)
        mask = torch.cat([prefix_mask[owner], rest_mask], 1).long()
        hidden = model.model(
            input_ids=batch["rest"][rows, :length],
            attention_mask=mask,
            position_ids=rest_positions,
            past_key_values=shared,
            use_cache=True,
        ).last_hidden_state
        labels = batch["labels"][rows, 1:length]
        chosen = labels != -100
        logits = model.lm_head(hidden[:, :-1][chosen]).float()
        target = labels[chosen]
        right += int((logits.argmax(-1) == target).sum())
        count += target.numel()
        losses.append(functional.cross_entropy(logits, target, reduction="sum"))
    return torch.stack(losses).sum() / count, right / count, count


def save(model: Qwen3ForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Write the weights (float32: the quickstart trains in it), the config and the tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106 - a token of the vocabulary
        pad_token="<|endoftext|>",  # noqa: S106
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = (Path(__file__).parent / "qwen3_thinking_2507.jinja").read_text()
    fast.save_pretrained(out)
    model.config.architectures = ["Qwen3ForCausalLM"]
    model.config.save_pretrained(out)
    state = {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    temporary = out / "model.safetensors.tmp"
    save_file(state, temporary, metadata={"format": "pt"})
    temporary.replace(out / "model.safetensors")
    (out / "generation_config.json").write_text(
        json.dumps(
            {"eos_token_id": model.config.eos_token_id, "pad_token_id": model.config.pad_token_id},
            indent=2,
        )
        + "\n"
    )


def optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms."""
    matrices = [
        p
        for n, p in model.named_parameters()
        if p.ndim == 2 and "embed" not in n and "lm_head" not in n
    ]
    others = [
        p
        for n, p in model.named_parameters()
        if not (p.ndim == 2 and "embed" not in n and "lm_head" not in n)
    ]
    return [
        torch.optim.Muon(
            matrices, lr=0.01, weight_decay=0.02, momentum=0.95, adjust_lr_fn="original"
        ),
        torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def main() -> None:
    """Build the tokenizer, pre-train for the given time, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("models/tiny-base"))
    parser.add_argument("--minutes", type=float, default=60.0, help="pre-training time")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--size", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from --out")
    parser.add_argument("--scale", type=float, default=1.0, help="learning-rate factor")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    out: Path = arguments.out
    if arguments.resume:
        tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
        model = Qwen3ForCausalLM.from_pretrained(out, dtype=torch.float32)
    else:
        tokenizer = build_tokenizer(arguments.seed)
        model = Qwen3ForCausalLM(config(tokenizer))
    tokens = Codes(tokenizer)
    codec = ChatCodec(tokens, Template.QWEN3_THINKING_2507)
    [pad], [open_id] = tokens.encode("<|endoftext|>"), tokens.encode("<|im_start|>")
    batches = Batches(codec, Corpus(arguments.seed + 1 + 1000 * arguments.resume), pad, open_id)
    checks = [Batches(codec, Corpus(10**6 + i), pad, open_id).next(4, 6, 500) for i in range(3)]
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    steps = optimizers(model)
    peaks = [[g["lr"] for g in o.param_groups] for o in steps]
    start, step, seen = time.monotonic(), 0, 0
    total = arguments.minutes * 60
    out.mkdir(parents=True, exist_ok=True)
    log = (out / "pretraining.jsonl").open("a")
    while (elapsed := time.monotonic() - start) < total:
        done = elapsed / total
        rate = (
            arguments.scale
            * min(1.0, (step + 1) / 50)
            * (1.0 if done < 0.5 else max(0.02, 2 * (1 - done)))
        )
        for optimizer, lrs in zip(steps, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = peak * rate
        # Short conversations first: copying emerges sooner on them.
        batch = batches.next(
            arguments.groups, arguments.size, 220 if step < 200 and not arguments.resume else 420
        )
        loss, _, count = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in steps:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + count
        if not math.isfinite(loss.item()):
            raise SystemExit(f"the loss became {loss.item()} at step {step}")
        if step % 50 == 0:
            with torch.no_grad():
                scores = [loss_of(model, check) for check in checks]
            row = {
                "step": step, "seconds": round(time.monotonic() - start, 1), "loss": round(loss.item(), 4),
                "check_loss": round(sum(s[0].item() for s in scores) / len(scores), 4),
                "check_token_accuracy": round(sum(s[1] for s in scores) / len(scores), 4), "tokens": seen,
            }  # fmt: skip
            print(json.dumps(row), flush=True)
            log.write(json.dumps(row) + "\n")
            log.flush()
        if step % 500 == 0:
            save(model, tokenizer, out)
    save(model, tokenizer, out)
    print(f"saved {out} ({(out / 'model.safetensors').stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
