"""Many conversations at once on a transformers model in this process, each with its KV kept across turns.

The sampled turn of every waiting conversation is written in lockstep: one forward a step for all rows. What
a conversation said before is never read again: its keys and values stay in its row, and a turn costs only
its new ids. Conversations that begin alike (the rollouts of one GRPO group, the tools of one world) read
their common beginning once.

While a batch computes it blocks the event loop: tools that answer over the network wait until the turn is
written. That is simple and deterministic, and right for models small enough to run here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import Cache, CacheLayerMixin

from cacherl.core.errors import ModelError
from cacherl.token_chat import Sampled

PREFILL_TOKENS = (
    2048  # tokens a prefill forward reads; twice that was slower per token (cache misses)
)
CHUNK_TOKENS = 512  # of one row in one prefill forward: bounds the attention mask of long prompts
SHARE_TOKENS = 32  # a common beginning shorter than this is not worth a forward of its own
DROP_EVERY = 8  # steps after which rows that finished leave the batch, however few they are
SHARE_GAIN = 0.25  # share of the batch's cells that reading common beginnings once must save
COLUMN_STEP, ROW_STEP = 128, 8  # buffers grow and shrink by these


# ---- loading ---------------------------------------------------------------------------------


class HFTokenizer:
    """A transformers tokenizer as `render.Tokenizer`: special tokens parse and print, none is added."""

    def __init__(self, tokenizer: Any) -> None:
        self.inner = tokenizer

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; special tokens in it become their single ids."""
        return [int(i) for i in self.inner.encode(text, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids, special tokens included, spaces untouched."""
        text: str = self.inner.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text


def load(
    source: str | Path, *, dtype: str = "float32", device: str | None = None
) -> tuple[Any, HFTokenizer]:
    """Return the model, in eval mode, and the tokenizer of a folder or a Hugging Face model id.

    A folder with `adapter_config.json` loads as its base model with the LoRA adapter on top (needs peft).

    Args:
        source: a folder written by `save_pretrained`, or a model id.
        dtype: `float32`, `bfloat16`, `float16`, or `auto` for what the files say.
        device: where to put the model; None is CUDA where there is one, else the CPU.

    Raises:
        ModelError: no such folder or id, files that are no model, or a device that is not there.
    """
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source))
        model = AutoModelForCausalLM.from_pretrained(
            str(source), dtype=dtype, attn_implementation="sdpa"
        ).to(place)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{source}: cannot be loaded as a model ({type(error).__name__}: {reason[:200]}). "
            "Give a folder that holds config.json, weights and a tokenizer, or a Hugging Face id that "
            "this machine can reach."
        ) from error
    return model.eval(), HFTokenizer(tokenizer)


def load_tokenizer(source: str | Path) -> HFTokenizer:
    """Return the tokenizer of a folder or a Hugging Face model id, without the weights.

    Raises:
        ModelError: there is none.
    """
    try:
        return HFTokenizer(AutoTokenizer.from_pretrained(str(source)))
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{source}: has no tokenizer that loads ({type(error).__name__}: {reason[:200]}). "
            "Give a folder with tokenizer.json, or a Hugging Face id that this machine can reach."
        ) from error


def prepare_cpu(threads: int) -> None:
    """Let torch use this many CPU threads (0: its own choice), and keep freed memory for the next step.

    Training frees and asks for the same large blocks at every step; glibc would hand each back to the
    system and fault its pages in again (measured: 12 SFT steps in 15 s instead of 17 s).
    """
    if threads:
        torch.set_num_threads(threads)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library has no mallopt
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


# ---- KV memory -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Window:
    """Which cells one forward writes and reads."""

    rows_B: Tensor
    positions_B_T: Tensor
    view: slice | None
    """The rows as a slice where they are neighbours: reading them then copies nothing."""
    first: int
    """The columns before this one are read through a `_Beginning`."""
    columns: int


class _RowLayer(CacheLayerMixin):
    """Keys and values of one layer, [rows, kv_heads, columns, head_dim], written in place."""

    def __init__(self, memory: KVRows) -> None:
        super().__init__()
        self._memory = memory

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        def room(like: Tensor) -> Tensor:
            # Zeros, not `empty`: masked columns are multiplied too, and NaN times zero is NaN.
            rows, columns = self._memory.shape
            return like.new_zeros(rows, like.shape[1], columns, like.shape[3])

        self.keys, self.values = room(key_states), room(value_states)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self._memory.window
        rows = window.rows_B[:, None]
        self.keys[rows, :, window.positions_B_T] = key_states.transpose(1, 2)
        self.values[rows, :, window.positions_B_T] = value_states.transpose(1, 2)
        if window.view is not None:
            return (
                self.keys[window.view, :, window.first : window.columns],
                self.values[window.view, :, window.first : window.columns],
            )
        return (
            self.keys[:, :, : window.columns][window.rows_B],
            self.values[:, :, : window.columns][window.rows_B],
        )

    @torch.inference_mode()
    def resize(self, rows: int, columns: int) -> None:
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
            r, c = min(rows, old.shape[0]), min(columns, old.shape[2])
            new[:r, :, :c] = old[:r, :, :c]
            setattr(self, name, new)

    @torch.inference_mode()
    def copy(self, source: Tensor, target: Tensor, columns: int) -> None:
        if not self.is_initialized:
            return
        for buffer in (self.keys, self.values):
            buffer[target, :, :columns] = buffer[source, :, :columns]

    # The model asks these only to build a mask; it is always handed one.
    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return int(self._memory.lengths.max(initial=0))

    def get_max_length(self) -> int:
        return -1


class KVRows(Cache):
    """The KV of all conversations: a row each, its ids in columns 0 to `lengths[row]`, without holes.

    Rows in use are 0 to `len(owners)`. Cells beyond a row's length hold finite rubbish that every
    mask hides.
    """

    def __init__(self, layers: int, device: torch.device) -> None:
        super().__init__(layers=[_RowLayer(self) for _ in range(layers)])
        self.device = device
        self.owners: list[str] = []
        self.row_of: dict[str, int] = {}
        self.ids = np.zeros((0, 0), dtype=np.int64)
        self.lengths = np.zeros(0, dtype=np.int64)
        self.window: _Window = _Window(
            torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long), None, 0, 0
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that are allocated."""
        return self.ids.shape[0], self.ids.shape[1]

    @property
    def bytes(self) -> int:
        """Bytes that the keys and values occupy."""
        return sum(
            buffer.nbytes
            for layer in self.layers
            if layer.is_initialized
            for buffer in (layer.keys, layer.values)
        )

    def add(self, owners: Iterable[str], *, columns: int) -> None:
        """Give each owner a row (an empty one where it has none), all at least `columns` wide."""
        for owner in owners:
            if owner not in self.row_of:
                self.row_of[owner] = len(self.owners)
                self.owners.append(owner)
        rows, wide = self.shape
        if len(self.owners) > rows or columns > wide:
            self._resize(max(rows, len(self.owners)), max(wide, columns))

    def remove(self, owner: str) -> None:
        """Free the owner's row; memory shrinks when three quarters of it are unused."""
        row = self.row_of.pop(owner, None)
        if row is None:
            return
        last = len(self.owners) - 1
        if row != last:
            self._move([last], [row])
            self.owners[row] = self.owners[last]
            self.row_of[self.owners[row]] = row
        self.owners.pop()
        if last < self.shape[0]:
            self.lengths[last] = 0
        if not self.owners:
            self._resize(0, 0)
        elif len(self.owners) * 4 <= self.shape[0]:
            self._resize(len(self.owners), int(self.lengths.max()) + 1)

    def swap(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Exchange rows pairwise; the pairs share no row."""
        if not pairs:
            return
        left, right = [a for a, _ in pairs], [b for _, b in pairs]
        self._move(left + right, right + left)
        for a, b in pairs:
            self.owners[a], self.owners[b] = self.owners[b], self.owners[a]
            self.row_of[self.owners[a]], self.row_of[self.owners[b]] = a, b

    def share(self, source: int, targets: Sequence[int], length: int) -> None:
        """Make the targets hold the first `length` ids of the source row."""
        if not targets or length == 0:
            return
        for layer in self.layers:
            layer.copy(self._tensor([source] * len(targets)), self._tensor(targets), length)
        self.ids[list(targets), :length] = self.ids[source, :length]
        self.lengths[list(targets)] = length

    def held(self, row: int, ids: Sequence[int]) -> int:
        """Return how many of the first ids the row holds."""
        return int(self._held(slice(row, row + 1), ids)[0])

    def nearest(self, ids: Sequence[int]) -> tuple[int, int]:
        """Return the row that holds most of the first ids, and how many."""
        held = self._held(slice(0, len(self.owners)), ids)
        row = int(held.argmax())
        return row, int(held[row])

    def _held(self, rows: slice, ids: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
        width = min(len(ids), self.shape[1])
        if width == 0:
            return np.zeros_like(self.lengths[rows])
        differs = self.ids[rows, :width] != np.asarray(ids[:width], dtype=np.int64)
        first = np.where(differs.any(axis=1), differs.argmax(axis=1), width)
        held: np.ndarray[Any, np.dtype[np.int64]] = np.minimum(first, self.lengths[rows])
        return held

    def beginnings(self, start: int, stop: int) -> _Beginnings | None:
        """Return what groups of these rows begin with alike, where reading it once a group pays."""
        lengths_B, ids_B_C = self.lengths[start:stop], self.ids[start:stop]
        shortest = int(lengths_B.min())
        if shortest < SHARE_TOKENS or stop - start < 2:
            return None
        order_B = np.lexsort(ids_B_C[:, :shortest].T[::-1])
        ordered = ids_B_C[order_B, :shortest]
        differs = ordered[1:] != ordered[:-1]
        common = np.where(differs.any(axis=1), differs.argmax(axis=1), shortest)
        # Cut at `width`, neighbours that agree on less are in different groups; each other row saves `width`.
        saved, width = max((int(w * (common >= w).sum()), int(w)) for w in set(common.tolist()))
        if width < SHARE_TOKENS or saved < SHARE_GAIN * int(lengths_B.sum()):
            return None
        group_B = np.empty(stop - start, np.int64)
        group_B[order_B] = np.concatenate([[0], np.cumsum(common < width)])
        heads = self._tensor(
            [start + int(np.argmax(group_B == g)) for g in range(group_B.max() + 1)]
        )
        return _Beginnings(
            width=width,
            group_B=group_B,
            keys=[layer.keys[:, :, :width][heads] for layer in self.layers],
            values=[layer.values[:, :, :width][heads] for layer in self.layers],
        )

    def look(
        self, rows: Sequence[int], positions_B_T: Tensor, columns: int, first: int = 0
    ) -> None:
        """Say which cells the next forward writes and reads."""
        top, count = rows[0], len(rows)
        neighbours = all(row == top + i for i, row in enumerate(rows))
        self.window = _Window(
            rows_B=self._tensor(rows),
            positions_B_T=positions_B_T,
            view=slice(top, top + count) if neighbours else None,
            first=first,
            columns=columns,
        )

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    def _move(self, source: Sequence[int], target: Sequence[int]) -> None:
        columns = int(self.lengths[list(source)].max(initial=0))
        from_rows, to_rows = self._tensor(source), self._tensor(target)
        for layer in self.layers:
            layer.copy(from_rows, to_rows, columns)
        self.ids[list(target)] = self.ids[list(source)]
        self.lengths[list(target)] = self.lengths[list(source)]

    def _resize(self, rows: int, columns: int) -> None:
        rows, columns = -(-rows // ROW_STEP) * ROW_STEP, -(-columns // COLUMN_STEP) * COLUMN_STEP
        r, c = min(rows, self.shape[0]), min(columns, self.shape[1])
        ids, lengths = np.zeros((rows, columns), np.int64), np.zeros(rows, np.int64)
        ids[:r, :c], lengths[:r] = self.ids[:r, :c], self.lengths[:r]
        self.ids, self.lengths = ids, lengths
        for layer in self.layers:
            layer.resize(rows, columns)


# ---- attention over common beginnings ----------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Beginnings:
    """The first `width` columns of groups of rows whose ids there are the same."""

    width: int
    group_B: np.ndarray[Any, np.dtype[np.int64]]
    keys: list[Tensor]
    """A layer each, [groups, kv_heads, width, head_dim]."""
    values: list[Tensor]
    used: int = 0
    """Layers that asked in the forward under way."""
    place_B: Tensor | None = None
    """Where each row's query goes in a table [groups, most members]; None after the rows changed."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order."""
        self.group_B, self.place_B = self.group_B[list(rows)], None

    def places(self, device: torch.device) -> tuple[Tensor, int]:
        """Return `place_B` and the number of members in the largest group."""
        counts = np.bincount(self.group_B, minlength=len(self.keys[0]))
        most = int(counts.max())
        if self.place_B is None:
            order = np.argsort(self.group_B, kind="stable")
            rank = np.empty_like(order)
            rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
            self.place_B = torch.from_numpy(self.group_B * most + rank).to(device)
        return self.place_B, most

    def attend(
        self,
        layer: int,
        query_B_H_1_D: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor,
        scale: float,
    ) -> Tensor:
        """Return the attention of one token a row over its group's beginning and its own columns.

        Both parts are softmaxes over their own columns; their log sums weigh them together.
        """
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        batch, heads, _, dim = query_B_H_1_D.shape
        kv_heads = key.shape[1]
        # Query heads that share a kv head stand side by side as if they were tokens.
        query = query_B_H_1_D.reshape(batch, kv_heads, heads // kv_heads, dim)
        own, own_sum = flash(query, key, value, attn_mask=mask, scale=scale)
        place_B, most = self.places(query.device)
        groups, each = len(self.keys[layer]), heads // kv_heads
        table = query.new_zeros(groups * most, kv_heads, each, dim)
        table[place_B] = query
        table = table.view(groups, most, kv_heads, each, dim).transpose(1, 2)
        begun, begun_sum = flash(
            table.reshape(groups, kv_heads, most * each, dim),
            self.keys[layer],
            self.values[layer],
            scale=scale,
        )
        begun = begun.reshape(groups, kv_heads, most, each, dim).transpose(1, 2)
        begun = begun.reshape(groups * most, kv_heads, each, dim)[place_B]
        begun_sum = begun_sum.reshape(groups, kv_heads, most, each).transpose(1, 2)
        begun_sum = begun_sum.reshape(groups * most, kv_heads, each)[place_B]
        share = torch.sigmoid(own_sum - begun_sum)[..., None].to(own.dtype)
        return torch.lerp(begun, own, share).reshape(batch, 1, heads, dim)


def _attend_beginnings(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float,
    cacherl_beginnings: _Beginnings,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it; registered below, in force only while the engine decodes."""
    cacherl_beginnings.used += 1
    return (
        cacherl_beginnings.attend(module.layer_idx, query, key, value, attention_mask, scaling),
        None,
    )


ATTENTION = "cacherl_beginnings"
AttentionInterface.register(ATTENTION, _attend_beginnings)


# ---- the engine ------------------------------------------------------------------------------


@dataclass(slots=True)
class _Session:
    seed: int
    drawn: int = 0
    """Ids sampled so far: the position in the session's stream of random numbers."""


@dataclass(slots=True, eq=False)
class _Turn:
    """A request, and what was written for it so far."""

    session: str
    prompt: list[int]
    max_new: int
    min_new: int
    stop_ids: frozenset[int]
    future: asyncio.Future[Sampled]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False

    @property
    def done(self) -> bool:
        return self.stopped or len(self.ids) >= self.max_new


class TransformersEngine:
    """Continues token ids on a transformers decoder, all waiting conversations in one batch.

    A batch runs as soon as every open session waits, or when nothing arrived for `idle_s` seconds (so
    that slow tools do not hold the others up). One event loop at a time; not for several threads.

    The random number behind the n-th id of a session depends only on the engine's seed, the
    session's seed and n, never on the batch it runs in: the same seed on the same stream gives the same
    text up to the rounding of another batch shape. Rollouts of one task need different seeds.

    Weights may change between turns (training): call `new_weights` then, or old keys and values
    are mixed with new ones.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: HFTokenizer | None = None,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        greedy: bool = False,
        max_batch: int = 256,
        seed: int = 0,
        idle_s: float = 0.005,
        name: str | None = None,
    ) -> None:
        """Take a model as it is, in train or eval mode, with or without LoRA.

        Args:
            model: a causal decoder with full attention in every layer (the Qwen3 family and its kin).
            tokenizer: kept for callers that need both; the engine itself sees only ids.
            temperature: above 0; logprobs are those at this temperature.
            top_p: keep the most likely ids that together reach this share; 1 keeps all.
            top_k: keep this many of the most likely ids; 0 keeps all.
            greedy: always take the most likely id.
            max_batch: rows in one forward; more conversations than that take turns and keep their KV.
            seed: with a session's seed, what its random numbers follow from.
            idle_s: seconds without an arrival after which those who wait need not wait for the rest.
            name: what reports call the model.

        Raises:
            ModelError: the model's attention or one of the settings is of no use here.
        """
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
        if kinds or config._attn_implementation not in ("sdpa", "eager"):
            seen = ", ".join(sorted(kinds)) or config._attn_implementation
            raise ModelError(
                f"the engine needs full attention by sdpa or eager in every layer, and this model has "
                f"{seen}. Load it with attn_implementation='sdpa', or serve it with vLLM."
            )
        if temperature <= 0 or not 0 < top_p <= 1 or top_k < 0 or max_batch < 1:
            raise ModelError(
                f"temperature {temperature}, top_p {top_p}, top_k {top_k}, max_batch {max_batch}: need "
                "temperature > 0, 0 < top_p <= 1, top_k >= 0, max_batch >= 1. Use greedy=True for argmax."
            )
        self.model, self.tokenizer = model, tokenizer
        self._temperature, self._top_p, self._top_k, self._greedy = (
            temperature,
            top_p,
            top_k,
            greedy,
        )
        self._max_batch, self._seed, self._idle_s = max_batch, seed, idle_s
        self._name = name or getattr(config, "_name_or_path", "") or type(model).__name__
        self._context = int(getattr(config, "max_position_embeddings", 0) or 1 << 30)
        self._layers = int(config.num_hidden_layers)
        self._config = config
        # The CPU's attention gives the log sums that joining two parts needs, and is where it pays most.
        self._shares = self._device.type == "cpu"
        self._sessions: dict[str, _Session] = {}
        self._waiting: dict[str, _Turn] = {}
        self._arrivals = 0
        self._check: asyncio.Handle | None = None
        self._kv = KVRows(self._layers, self._device)

    @property
    def name(self) -> str:
        """What reports call the model."""
        return self._name

    @property
    def kv_bytes(self) -> int:
        """Bytes that the conversations' keys and values occupy now."""
        return self._kv.bytes

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    # ---- sessions ----------------------------------------------------------------------------

    def open(self, session: str, *, seed: int) -> None:
        """Announce a conversation; batches wait for it until it asks, idles or closes."""
        text = f"{self._seed}/{seed}".encode()
        number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
        self._sessions[session] = _Session(seed=number)

    def close(self, session: str) -> None:
        """Forget the conversation and free its KV. Safe to call twice."""
        self._sessions.pop(session, None)
        turn = self._waiting.pop(session, None)
        if turn is not None and not turn.future.done():
            turn.future.cancel()
        self._kv.remove(session)
        self._poke()

    def new_weights(self) -> None:
        """Drop all KV, because the model changed. Open conversations go on and are read again."""
        self._kv = KVRows(self._layers, self._device)

    def reset(self) -> None:
        """Drop all KV and forget every conversation."""
        for session in list(self._sessions):
            self.close(session)
        self.new_weights()

    async def generate(
        self,
        session: str,
        ids: Sequence[int],
        *,
        max_new: int,
        min_new: int = 0,
        stop_ids: frozenset[int] = frozenset(),
    ) -> Sampled:
        """See `Engine.generate`.

        Raises:
            ModelError: the stream and its continuation exceed the model's positions, or memory ran out.
        """
        if session not in self._sessions or session in self._waiting or not ids:
            raise ValueError(f"{session}: not open, already waiting, or an empty stream")
        if len(ids) + max_new > self._context:
            raise ModelError(
                f"{len(ids)} ids and {max_new} new ones exceed the model's {self._context} positions. "
                "Lower limits.max_context_tokens."
            )
        future: asyncio.Future[Sampled] = asyncio.get_running_loop().create_future()
        turn = _Turn(session, list(ids), max_new, min_new, stop_ids, future)
        if turn.done:
            return Sampled(ids=[], logprobs=[], truncated=True)
        self._waiting[session] = turn
        self._arrivals += 1
        self._poke()
        try:
            return await future
        finally:
            if self._waiting.get(session) is turn:  # cancelled by its caller
                del self._waiting[session]

    # ---- when to run -------------------------------------------------------------------------

    def _poke(self) -> None:
        """Look at the waiting ones once all tasks that are ready now have run."""
        if self._check is not None:
            self._check.cancel()
            self._check = None
        if self._waiting:
            loop = next(iter(self._waiting.values())).future.get_loop()
            if not loop.is_closed():
                self._check = loop.call_soon(self._look, self._arrivals)

    def _look(self, seen: int) -> None:
        if self._arrivals != seen:
            self._poke()
        elif len(self._waiting) >= len(self._sessions):
            self._run()
        elif self._waiting:
            loop = next(iter(self._waiting.values())).future.get_loop()
            self._check = loop.call_later(self._idle_s, self._run)

    def _run(self) -> None:
        self._check = None
        turns = [turn for turn in self._waiting.values() if not turn.future.done()]
        self._waiting.clear()
        if not turns:
            return
        started = time.perf_counter()
        try:
            self._write(turns)
        except Exception as error:  # noqa: BLE001 - a callback has no caller: the waiting tasks raise it
            self.new_weights()
            if isinstance(error, torch.OutOfMemoryError):
                error = ModelError(
                    f"out of memory with {len(turns)} conversations. Lower max_batch or the concurrency."
                )
            for turn in turns:
                turn.future.set_exception(error)
            return
        share = (time.perf_counter() - started) / len(turns)
        for turn in turns:
            turn.future.set_result(
                Sampled(
                    ids=turn.ids, logprobs=turn.logprobs, truncated=not turn.stopped, model_s=share
                )
            )

    # ---- one batch ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        """Eval mode without gradients; each module's own mode comes back afterwards."""
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            for module in training:
                module.training = True

    def _write(self, turns: list[_Turn]) -> None:
        kv = self._kv
        if kv.device != self._device:  # the model was moved
            self.new_weights()
            kv = self._kv
        with self._inference():
            kv.add(
                (turn.session for turn in turns),
                columns=max(len(turn.prompt) + turn.max_new for turn in turns),
            )
            self._fill(turns)
            # The waiting rows come first, so that a wave of them is a slice of the buffers.
            wanted = {turn.session for turn in turns}
            outside = [kv.row_of[s] for s in wanted if kv.row_of[s] >= len(turns)]
            inside = [r for r in range(len(turns)) if kv.owners[r] not in wanted]
            kv.swap(list(zip(inside, outside, strict=True)))
            turns = sorted(turns, key=lambda turn: kv.row_of[turn.session])
            for start in range(0, len(turns), self._max_batch):
                self._decode(turns[start : start + self._max_batch], start)

    def _fill(self, turns: Sequence[_Turn]) -> None:
        """Make every row hold its stream but for the last id, which the first step feeds."""
        kv = self._kv
        fresh: dict[tuple[int, ...], list[int]] = {}
        for turn in turns:
            row = kv.row_of[turn.session]
            kv.lengths[row] = kv.held(row, turn.prompt[:-1])
            if kv.lengths[row] == 0:
                fresh.setdefault(tuple(turn.prompt[:-1]), []).append(row)
        self._begin(fresh)
        self._prefill([(kv.row_of[turn.session], turn.prompt[:-1]) for turn in turns])

    def _begin(self, fresh: dict[tuple[int, ...], list[int]]) -> None:
        """Read each new prompt once, and what all of them begin with once."""
        kv = self._kv
        prompts = sorted(fresh)
        if len(prompts) > 1:
            common = _common(prompts[0], prompts[-1])
            if common >= SHARE_TOKENS:
                self._borrow(fresh[prompts[0]][0], prompts[0])
                self._prefill([(fresh[prompts[0]][0], prompts[0][:common])])
        for prompt in prompts:
            self._borrow(fresh[prompt][0], prompt)
        self._prefill([(fresh[prompt][0], prompt) for prompt in prompts])
        for prompt in prompts:
            kv.share(fresh[prompt][0], fresh[prompt][1:], len(prompt))

    def _borrow(self, row: int, ids: Sequence[int]) -> None:
        """Copy the longest beginning of `ids` that any row holds."""
        source, length = self._kv.nearest(ids)
        if length > self._kv.lengths[row] and length >= SHARE_TOKENS:
            self._kv.share(source, [row], length)

    def _prefill(self, work: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Make the rows hold these ids, whose first `lengths[row]` they hold already."""
        kv = self._kv
        todo = [(len(ids) - int(kv.lengths[row]), row, ids) for row, ids in work]
        todo = sorted((item for item in todo if item[0] > 0), key=lambda item: (item[0], item[1]))
        while todo:
            longest = todo[-1][0]
            fit = max(1, PREFILL_TOKENS // min(longest, CHUNK_TOKENS))
            batch = todo[-min(fit, self._max_batch) :]
            del todo[-len(batch) :]
            for _ in range(0, longest, CHUNK_TOKENS):
                self._prefill_chunk([(row, ids) for _, row, ids in batch])

    def _prefill_chunk(self, batch: Sequence[tuple[int, Sequence[int]]]) -> None:
        kv = self._kv
        rows = [row for row, _ in batch]
        starts_B = kv.lengths[rows]
        news = [
            ids[start : start + CHUNK_TOKENS]
            for (_, ids), start in zip(batch, starts_B, strict=True)
        ]
        width = max(map(len, news))
        tokens_B_T = np.zeros((len(rows), width), np.int64)
        for i, new in enumerate(news):
            tokens_B_T[i, : len(new)] = new
        # Padding writes rubbish beyond the row's length; clamped, it stays within the buffer, whose
        # last column is never alive before the turn's last id is sampled.
        positions_B_T = np.minimum(starts_B[:, None] + np.arange(width), kv.shape[1] - 1)
        self._forward(rows, tokens_B_T, positions_B_T)
        for row, start, new in zip(rows, starts_B, news, strict=True):
            kv.ids[row, start : start + len(new)] = new
            kv.lengths[row] = start + len(new)

    def _forward(
        self,
        rows: Sequence[int],
        tokens_B_T: np.ndarray[Any, np.dtype[np.int64]],
        positions_B_T: np.ndarray[Any, np.dtype[np.int64]],
        beginnings: _Beginnings | None = None,
    ) -> Tensor:
        """Return the logits [B, V] after the last token; keys and values go to the rows."""
        device, columns = self._kv.device, int(positions_B_T.max()) + 1
        first = beginnings.width if beginnings else 0
        positions = torch.from_numpy(positions_B_T).to(device)
        hidden = torch.arange(first, columns, device=device) > positions[:, None, :, None]
        dtype = self.model.dtype
        mask_B_1_T_C = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(
            hidden, torch.finfo(dtype).min
        )
        self._kv.look(rows, positions, columns, first)
        with self._attention(beginnings):
            out = self.model(
                input_ids=torch.from_numpy(tokens_B_T).to(device),
                attention_mask=mask_B_1_T_C,
                position_ids=positions,
                past_key_values=self._kv,
                use_cache=True,
                logits_to_keep=1,
                **({"cacherl_beginnings": beginnings} if beginnings else {}),
            )
        if beginnings and beginnings.used != self._layers:
            # A model that does not ask transformers for its attention saw only half of its columns.
            self._shares = False
            return self._forward(rows, tokens_B_T, positions_B_T)
        logits: Tensor = out.logits[:, -1]
        return logits

    @contextlib.contextmanager
    def _attention(self, beginnings: _Beginnings | None) -> Iterator[None]:
        """Put our attention in force for one forward."""
        if beginnings is None:
            yield
            return
        config, usual = self._config, self._config._attn_implementation
        beginnings.used = 0
        config._attn_implementation = ATTENTION
        try:
            yield
        finally:
            config._attn_implementation = usual

    def _decode(self, turns: Sequence[_Turn], start: int) -> None:
        """Write the turns of rows `start` and following to their ends, one id a step."""
        kv = self._kv
        live = list(turns)  # live[i] is in row start + i
        beginnings = kv.beginnings(start, start + len(live)) if self._shares else None
        for step in itertools.count(1):
            rows = range(start, start + len(live))
            lengths_B = kv.lengths[rows.start : rows.stop]  # a view
            tokens_B = np.array([(turn.ids or turn.prompt)[-1] for turn in live], np.int64)
            logits_B_V = self._forward(
                rows, tokens_B[:, None], lengths_B[:, None].copy(), beginnings
            )
            if not self._shares:
                beginnings = None
            picks, logprobs = self._sample(logits_B_V, live)
            for i, turn in enumerate(live):
                # A row that is done is fed its last id again at the same place until it leaves.
                if not turn.done:
                    kv.ids[start + i, lengths_B[i]] = tokens_B[i]
                    lengths_B[i] += 1
                    turn.ids.append(picks[i])
                    turn.logprobs.append(logprobs[i])
                    turn.stopped = picks[i] in turn.stop_ids
                    self._sessions[turn.session].drawn += 1
            done = [i for i, turn in enumerate(live) if turn.done]
            if len(done) == len(live):
                return
            if done and (len(done) * 8 >= len(live) or step % DROP_EVERY == 0):
                stay = len(live) - len(done)
                holes = [i for i in done if i < stay]
                movers = [i for i in range(stay, len(live)) if not live[i].done]
                kv.swap([(start + a, start + b) for a, b in zip(holes, movers, strict=True)])
                order = list(range(stay))
                for a, b in zip(holes, movers, strict=True):
                    order[a] = b
                live = [live[i] for i in order]
                if beginnings:
                    beginnings.keep(order)

    # ---- sampling ----------------------------------------------------------------------------

    def _sample(self, logits_B_V: Tensor, live: Sequence[_Turn]) -> tuple[list[int], list[float]]:
        """Return an id for each row and its log probability before any cut."""
        scores_B_V = logits_B_V.float() / self._temperature
        open_B_V = scores_B_V
        early = [i for i, turn in enumerate(live) if len(turn.ids) < turn.min_new]
        if early:
            open_B_V = scores_B_V.clone()
            for i in early:
                open_B_V[i, list(live[i].stop_ids)] = -torch.inf
        picks_B = open_B_V.argmax(-1) if self._greedy else self._draw(self._cut(open_B_V), live)
        logprobs_B = scores_B_V.gather(1, picks_B[:, None])[:, 0] - scores_B_V.logsumexp(-1)
        return picks_B.tolist(), logprobs_B.tolist()

    def _draw(self, scores_B_V: Tensor, live: Sequence[_Turn]) -> Tensor:
        """Invert the cumulative distribution at one uniform number a row."""
        sums_B_V = scores_B_V.softmax(-1).cumsum(-1, dtype=torch.float64)
        total_B_1 = sums_B_V[:, -1:]
        uniform_B_1 = torch.from_numpy(self._uniforms(live)[:, None]).to(sums_B_V.device)
        # Below the total, so that rounding never lands past the last id of positive probability.
        below = torch.nextafter(total_B_1, torch.zeros_like(total_B_1))
        picks_B_1 = torch.searchsorted(
            sums_B_V, torch.minimum(uniform_B_1 * total_B_1, below), right=True
        )
        return picks_B_1[:, 0]

    def _uniforms(self, live: Sequence[_Turn]) -> np.ndarray[Any, np.dtype[np.float64]]:
        sessions = [self._sessions[turn.session] for turn in live]
        seeds = np.array([session.seed for session in sessions], np.uint64)
        counts = np.array([session.drawn for session in sessions], np.uint64)
        return uniforms(seeds, counts)

    def _cut(self, scores_B_V: Tensor) -> Tensor:
        """Return the scores with what top-k and top-p leave out at minus infinity."""
        if 0 < self._top_k < scores_B_V.shape[1]:
            least = scores_B_V.topk(self._top_k, dim=-1).values[:, -1:]
            scores_B_V = scores_B_V.masked_fill(scores_B_V < least, -torch.inf)
        if self._top_p < 1.0:
            ordered, order = scores_B_V.sort(dim=-1, descending=True)
            share = ordered.softmax(-1)
            # An id stays when those before it have not reached top_p yet; the first always stays.
            out = share.cumsum(-1) - share >= self._top_p
            scores_B_V = scores_B_V.scatter(1, order, ordered.masked_fill(out, -torch.inf))
        return scores_B_V


def uniforms(
    seeds: np.ndarray[Any, np.dtype[np.uint64]], counts: np.ndarray[Any, np.dtype[np.uint64]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the `counts`-th number in [0, 1) of each seed's stream.

    Source: SplitMix64 (Steele, Lea, Flood 2014), which can start anywhere in its stream.
    """
    with np.errstate(over="ignore"):
        z = seeds + (counts + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the length of the common beginning."""
    for i, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return i
    return min(len(left), len(right))
