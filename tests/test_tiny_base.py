"""The model that ships: what its card says must be so."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the [train] extra")

from cacherl.adapters.transformers_engine import load, load_tokenizer
from cacherl.core.tasks import Split
from cacherl.render import ChatCodec, Template
from cacherl.worlds.desk import DeskWorld

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models" / "tiny-base"


def test_it_is_as_small_as_the_card_says() -> None:
    """It is in the repository, so its size is everybody's."""
    model, _ = load(MODEL)

    assert 1_000_000 <= model.num_parameters() <= 6_000_000
    assert f"{model.num_parameters():,} parameters" in (MODEL / "README.md").read_text()
    assert sum(f.stat().st_size for f in MODEL.iterdir()) < 12_000_000
    assert model.config.model_type == "qwen3"


def test_its_tokenizer_splits_digits_and_keeps_qwens_tokens_whole() -> None:
    """llama.cpp's `qwen2` pre-tokenizer must cut text in the same places at export."""
    tokenizer = load_tokenizer(MODEL)

    assert [tokenizer.decode([i]) for i in tokenizer.encode("2048")] == ["2", "0", "4", "8"]
    for token in ("<|im_start|>", "<|im_end|>", "<think>", "</tool_call>", "<tool_response>"):
        assert len(tokenizer.encode(token)) == 1
    text = 'Ça marche ? {"name": "x"}\n\n日本 🙂'
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_its_chat_template_and_our_codec_agree_to_the_last_id() -> None:
    """Whoever serves it elsewhere renders by its template; training renders by our codec."""
    tokenizer = load_tokenizer(MODEL)
    codec = ChatCodec(tokenizer, Template.QWEN3_THINKING_2507)
    task = DeskWorld().tasks(Split.TRAIN, count=1, seed=0)[0]
    from cacherl.core.messages import SystemMessage, UserMessage
    from cacherl.render import tool_json

    ours = codec.prompt_ids(
        task.tools, [SystemMessage(content=task.system), UserMessage(content=task.user_turns[0])]
    )
    theirs = tokenizer.inner.apply_chat_template(
        [
            {"role": "system", "content": task.system},
            {"role": "user", "content": task.user_turns[0]},
        ],
        tools=[json.loads(tool_json(tool)) for tool in task.tools],
        add_generation_prompt=True,
        tokenize=False,
    )

    assert ours == tokenizer.encode(theirs)


def test_prompts_of_the_desk_stay_near_500_tokens() -> None:
    """Prompt length is most of what the quickstart's training costs."""
    codec = ChatCodec(load_tokenizer(MODEL), Template.QWEN3_THINKING_2507)
    from cacherl.core.messages import SystemMessage, UserMessage

    lengths = [
        len(
            codec.prompt_ids(
                t.tools, [SystemMessage(content=t.system), UserMessage(content=t.user_turns[0])]
            )
        )
        for t in DeskWorld().tasks(Split.TRAIN, count=160, seed=0)
    ]

    assert 400 < sum(lengths) / len(lengths) < 580
    assert max(lengths) < 660


def test_its_corpus_has_never_seen_the_support_desk() -> None:
    """Base must mean base: otherwise the quickstart's first row would be a lie."""
    pytest.importorskip("wordfreq", reason="needs the [tiny] extra: `make tiny-base` installs it")
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from tiny_corpus import Corpus
    finally:
        sys.path.pop(0)
    corpus = Corpus(11)
    desk_tools = {spec.name for spec in DeskWorld().specs}
    again = Corpus(11)
    for _ in range(60):
        group = corpus.group(4)
        assert group == again.group(4)
        assert not desk_tools & {tool.name for tool in group.tools}
        text = " ".join(str(message) for talk in group.conversations for message in talk).lower()
        for word in (
            " refund",
            " ticket",
            " appointment",
            " commande ",
            " remboursement",
            "créneau",
        ):
            assert word not in text
