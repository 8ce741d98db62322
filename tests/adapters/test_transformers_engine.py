"""The batching engine against the engine anyone would first write."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from cacherl.adapters.transformers_engine import (  # noqa: E402 - after importorskip
    HFTokenizer,
    TransformersEngine,
    _Beginnings,
    load,
    uniforms,
)
from cacherl.core.errors import ModelError  # noqa: E402
from cacherl.token_chat import Engine, Sampled  # noqa: E402
from tests.fakes import NaiveEngine  # noqa: E402

VOCAB = 40
STOP = frozenset({0, 1, 2, 3})


def tiny_model(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config = transformers.Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.4,  # far from uniform: argmax is not a tie of rounding errors
        tie_word_embeddings=True,
        **changes,
    )
    return transformers.Qwen3ForCausalLM(config).eval()


async def converse(
    engine: Engine,
    session: str,
    prompt: Sequence[int],
    suffixes: Sequence[Sequence[int]],
    *,
    max_new: int,
    seed: int = 0,
    min_new: int = 0,
) -> list[Sampled]:
    engine.open(session, seed=seed)
    stream, said = list(prompt), []
    for suffix in suffixes:
        sampled = await engine.generate(
            session, stream, max_new=max_new, min_new=min_new, stop_ids=STOP
        )
        said.append(sampled)
        stream += [*sampled.ids, *suffix]
    engine.close(session)
    return said


def assert_same(got: Sequence[Sampled], want: Sequence[Sampled]) -> None:
    assert [s.ids for s in got] == [s.ids for s in want]
    assert [s.truncated for s in got] == [s.truncated for s in want]
    for g, w in zip(got, want, strict=True):
        assert g.logprobs == pytest.approx(w.logprobs, abs=1e-4)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_batch", [3, 64])
async def test_many_conversations_at_once_say_what_each_says_alone(
    seed: int, max_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one property that matters: batching, kept KV, waves and shared beginnings change nothing."""
    small = {"PREFILL_TOKENS": 24, "CHUNK_TOKENS": 7, "SHARE_TOKENS": 3, "DROP_EVERY": 2}
    monkeypatch.setattr("cacherl.adapters.transformers_engine.SHARE_GAIN", 0.01)
    for name, value in {**small, "COLUMN_STEP": 4, "ROW_STEP": 1}.items():
        monkeypatch.setattr(f"cacherl.adapters.transformers_engine.{name}", value)
    draw = random.Random(seed)
    model = tiny_model(seed)

    def ids(low: int, high: int) -> list[int]:
        return [draw.randrange(VOCAB) for _ in range(draw.randint(low, high))]

    system = ids(5, 20)
    prompts = [system + ids(1, 12) for _ in range(4)] + [ids(1, 1), ids(1, 30)]
    conversations = [
        (prompt, [ids(1, 9) for _ in range(draw.randint(1, 4))], draw.choice([3, 12]))
        for prompt in prompts
        for _ in range(draw.randint(1, 3))
    ]
    engine = TransformersEngine(model, greedy=True, temperature=0.7, max_batch=max_batch)
    naive = NaiveEngine(model, temperature=0.7)

    got = await asyncio.gather(
        *(
            converse(engine, f"s{i}", prompt, suffixes, max_new=max_new, min_new=2)
            for i, (prompt, suffixes, max_new) in enumerate(conversations)
        )
    )

    for (prompt, suffixes, max_new), said in zip(conversations, got, strict=True):
        want = await converse(naive, "n", prompt, suffixes, max_new=max_new, min_new=2)
        assert_same(said, want)
    assert engine.kv_bytes == 0


async def test_a_stream_that_does_not_extend_the_held_one_starts_afresh() -> None:
    """At a new user turn the template drops old thinking: what is held is then another stream."""
    model = tiny_model()
    engine, naive = TransformersEngine(model, greedy=True), NaiveEngine(model)
    engine.open("s", seed=0)
    streams = [[5, 6, 7, 8, 9], [5, 6, 7, 20], [5, 6], [30, 6, 7], [30, 6, 7, 9, 9, 9, 9, 9]]

    for stream in streams:
        got = await engine.generate("s", stream, max_new=6, min_new=0, stop_ids=STOP)
        want = await naive.generate("n", stream, max_new=6, min_new=0, stop_ids=STOP)
        assert_same([got], [want])


async def test_new_weights_are_used_after_new_weights() -> None:
    """A training step between two turns must not leave keys of the old weights behind."""
    model = tiny_model()
    engine, naive = TransformersEngine(model, greedy=True), NaiveEngine(model)
    engine.open("s", seed=0)
    stream = [5, 6, 7, 8, 9]
    stream += (await engine.generate("s", stream, max_new=6, min_new=0, stop_ids=STOP)).ids
    model.load_state_dict(tiny_model(1).state_dict())

    engine.new_weights()

    got = await engine.generate("s", [*stream, 9], max_new=6, min_new=0, stop_ids=STOP)
    want = await naive.generate("n", [*stream, 9], max_new=6, min_new=0, stop_ids=STOP)
    assert_same([got], [want])


async def test_a_closed_conversation_gives_its_memory_back() -> None:
    """A run of thousands of episodes must not grow."""
    engine = TransformersEngine(tiny_model(), greedy=True)
    sizes = []
    for i in range(32):
        engine.open(f"s{i}", seed=i)
    await asyncio.gather(
        *(
            engine.generate(f"s{i}", [5, 6, 7], max_new=4, min_new=0, stop_ids=STOP)
            for i in range(32)
        )
    )
    for i in range(32):
        sizes.append(engine.kv_bytes)
        engine.close(f"s{i}")
        engine.close(f"s{i}")  # safe to call twice

    assert sizes[0] > sizes[-1] > 0
    assert engine.kv_bytes == 0


async def test_one_slow_conversation_does_not_hold_the_others_up() -> None:
    """A live tool may take seconds while the other rollouts wait for nothing."""
    engine = TransformersEngine(tiny_model(), greedy=True, idle_s=0.01)
    engine.open("slow", seed=0)

    said = await asyncio.wait_for(
        converse(engine, "fast", [5, 6, 7], [[8], [9]], max_new=4), timeout=20
    )

    assert len(said) == 2


async def test_a_cancelled_conversation_leaves_the_batch() -> None:
    """One episode that is given up must not take the others with it."""
    engine = TransformersEngine(tiny_model(), greedy=True)
    engine.open("waits", seed=0)
    engine.open("blocks", seed=0)
    given_up = asyncio.ensure_future(converse(engine, "gone", [5, 6], [[7]], max_new=4))
    await asyncio.sleep(0)
    given_up.cancel()

    said = await engine.generate("waits", [5, 6, 7], max_new=3, min_new=3, stop_ids=STOP)

    assert len(said.ids) == 3
    with pytest.raises(asyncio.CancelledError):
        await given_up


def test_the_engine_outlives_an_event_loop() -> None:
    """TRL calls the rollout function once a step, and each call runs its own loop."""
    engine = TransformersEngine(tiny_model(), greedy=True)

    first = asyncio.run(converse(engine, "a", [5, 6, 7], [[8], [9]], max_new=4))
    second = asyncio.run(converse(engine, "b", [5, 6, 7], [[8], [9]], max_new=4))

    assert_same(second, first)


async def test_no_stop_id_comes_before_min_new() -> None:
    """The paper's minimum for the first turn; the log probability stays the unsuppressed one."""
    engine = TransformersEngine(tiny_model(), seed=3)
    everything_stops = frozenset(range(VOCAB - 1))

    engine.open("s", seed=0)
    said = await engine.generate("s", [5, 6], max_new=9, min_new=5, stop_ids=everything_stops)

    assert said.ids[:5] == [VOCAB - 1] * 5
    assert len(said.ids) >= 6
    assert all(math.isfinite(logprob) for logprob in said.logprobs)


async def sample_next(engine: TransformersEngine, prompt: list[int], count: int) -> Counter[int]:
    said = await asyncio.gather(
        *(converse(engine, f"s{i}", prompt, [[]], max_new=1, seed=i) for i in range(count))
    )
    return Counter(turn[0].ids[0] for turn in said)


@pytest.mark.parametrize(
    "cuts", [{}, {"temperature": 2.0}, {"top_k": 3}, {"top_p": 0.6}, {"top_k": 9, "top_p": 0.8}]
)
async def test_ids_come_as_often_as_the_model_says(cuts: dict[str, Any]) -> None:
    """A biased sampler trains another policy than the one that is scored."""
    model, prompt, count = tiny_model(2, use_cache=False), [5, 9, 11], 4000
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    share = (logits / cuts.get("temperature", 1.0)).softmax(-1).numpy()
    order = np.argsort(-share)
    keep = order[: cuts.get("top_k") or VOCAB]
    kept = share[keep] / share[keep].sum()
    keep = keep[np.cumsum(kept) - kept < cuts.get("top_p", 1.0)]
    want = np.zeros(VOCAB)
    want[keep] = share[keep] / share[keep].sum()

    seen = await sample_next(TransformersEngine(model, max_batch=1000, **cuts), prompt, count)

    assert set(seen) <= set(keep.tolist())
    expected = want * count
    often = expected >= 5
    statistic = sum(
        (seen[i] - expected[i]) ** 2 / expected[i] for i in np.flatnonzero(often).tolist()
    )
    freedom = max(int(often.sum()) - 1, 1)
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)  # about 4 sigma


async def test_the_same_seed_gives_the_same_text_in_any_batch() -> None:
    """A rollout can be looked at again alone, and a run repeated."""
    model = tiny_model()
    alone = await converse(
        TransformersEngine(model, seed=1), "x", [5, 6], [[7], [8]], max_new=9, seed=4
    )

    engine = TransformersEngine(model, seed=1)
    together = await asyncio.gather(
        *(converse(engine, f"s{i}", [5, 6], [[7], [8]], max_new=9, seed=i) for i in range(8))
    )
    other = await converse(
        TransformersEngine(model, seed=2), "x", [5, 6], [[7], [8]], max_new=9, seed=4
    )

    assert_same(together[4], alone)
    assert len({tuple(said[0].ids) for said in together}) > 4
    assert [s.ids for s in other] != [s.ids for s in alone]


async def test_log_probabilities_are_those_the_trainer_computes() -> None:
    """GRPO divides by them: they are taken at the temperature, before top-k and top-p."""
    model = tiny_model()
    engine = TransformersEngine(model, temperature=0.8, top_k=4, top_p=0.9)
    said = (await converse(engine, "s", [5, 6, 7], [[]], max_new=12))[0]

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 6, 7, *said.ids]])).logits[0, 2:-1]
    logprobs = (logits / 0.8).log_softmax(-1)

    want = [float(logprobs[t, i]) for t, i in enumerate(said.ids)]
    assert said.logprobs == pytest.approx(want, abs=1e-4)


async def test_a_model_in_training_is_given_back_as_it_was() -> None:
    """TRL hands over the model in train mode, with one part frozen in eval mode."""
    model = tiny_model(attention_dropout=0.5).train()
    model.model.norm.eval()
    engine = TransformersEngine(model, greedy=True)

    got = await converse(engine, "s", [5, 6, 7], [[8], []], max_new=5)

    assert model.training
    assert model.model.layers[0].training
    assert not model.model.norm.training
    want = await converse(NaiveEngine(model.eval()), "n", [5, 6, 7], [[8], []], max_new=5)
    assert_same(got, want)
    model.train()(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()


# peft 0.21 asks transformers by an old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
async def test_a_model_with_lora_speaks_with_its_adapter() -> None:
    """On a GPU only adapters are trained; the engine must see them."""
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        tiny_model(),
        peft.LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"]),
    )
    engine = TransformersEngine(model, greedy=True)

    got = await converse(engine, "s", [5, 6, 7], [[8], []], max_new=5)

    want = await converse(NaiveEngine(model.eval()), "n", [5, 6, 7], [[8], []], max_new=5)
    assert_same(got, want)
    plain = await converse(NaiveEngine(tiny_model()), "n", [5, 6, 7], [[8], []], max_new=5)
    assert [s.ids for s in plain] != [s.ids for s in want]


async def test_what_does_not_fit_the_model_is_refused_in_one_line() -> None:
    """Rotary positions beyond the trained ones give fluent nonsense, not an error."""
    engine = TransformersEngine(tiny_model(max_position_embeddings=16))
    engine.open("s", seed=0)

    with pytest.raises(ModelError, match="exceed the model's 16 positions"):
        await engine.generate("s", [5] * 10, max_new=7, min_new=0, stop_ids=STOP)
    with pytest.raises(ModelError, match="sliding_attention"):
        TransformersEngine(
            tiny_model(use_sliding_window=True, max_window_layers=1, sliding_window=4)
        )
    with pytest.raises(ModelError, match="temperature 0"):
        TransformersEngine(tiny_model(), temperature=0.0)


def test_uniform_numbers_are_uniform_and_differ_between_neighbouring_seeds() -> None:
    """Rollouts of a group get neighbouring seeds."""
    seeds, counts = np.meshgrid(np.arange(100, dtype=np.uint64), np.arange(100, dtype=np.uint64))

    numbers = uniforms(seeds.ravel() * np.uint64(0x1234567890ABCDEF), counts.ravel())

    assert np.all((numbers >= 0) & (numbers < 1))
    histogram, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert ((histogram - 500) ** 2 / 500).sum() < 19 + 4 * math.sqrt(38)


def test_a_model_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    """The commonest mistake at the terminal: a wrong path, or no network."""
    with pytest.raises(ModelError, match="cannot be loaded as a model") as caught:
        load(tmp_path / "nothing")
    assert "\n" not in str(caught.value)


def test_a_saved_model_loads_and_its_tokenizer_keeps_special_tokens(tmp_path: Path) -> None:
    """The codec counts on `<|im_end|>` being one id and on nothing being added or cleaned."""
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator([], trainer)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>"
    ).save_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path)

    model, tokenizer = load(tmp_path, device="cpu")

    text = "<|im_start|>user\nit 's , fine  é<|im_end|>\n"
    assert isinstance(tokenizer, HFTokenizer)
    assert len(tokenizer.encode("<|im_end|>")) == 1
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not model.training


async def test_rollouts_of_a_group_read_their_common_prompt_once_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The prompt is most of a conversation: this is where a rollout's time goes on a CPU."""
    monkeypatch.setattr("cacherl.adapters.transformers_engine.SHARE_TOKENS", 4)
    asked: list[int] = []
    attend = _Beginnings.attend

    def counted(self: _Beginnings, *args: Any) -> Any:
        asked.append(self.width)
        return attend(self, *args)

    monkeypatch.setattr(_Beginnings, "attend", counted)
    model = tiny_model(attn_implementation="sdpa")
    engine, naive = TransformersEngine(model, greedy=True), NaiveEngine(model)
    prompt = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    prompts = [
        prompt,
        prompt,
        [*prompt, 30],
        [*prompt, 31],
        [20, 21, 22, 23, 24, 25, 26, 27, 28, 29],
    ]

    said = await asyncio.gather(
        *(
            converse(engine, f"s{i}", one, [[i], [i, i]], max_new=3 + i)
            for i, one in enumerate(prompts)
        )
    )

    assert asked
    assert set(asked) <= {9, 10}  # the ids that are held before the first and the second turn
    for i, one in enumerate(prompts):
        assert_same(said[i], await converse(naive, "n", one, [[i], [i, i]], max_new=3 + i))
    assert model.config._attn_implementation == "sdpa"
