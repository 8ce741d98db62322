"""The codec against the real templates, and what must hold whatever a model, a tool or a user writes."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.messages import (
    AssistantMessage,
    Call,
    MalformedCall,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.tools import ToolSpec
from cacherl.core.trajectories import TokenSegment
from cacherl.render import CUT_MARKER, ChatCodec, Template, defuse, tool_json
from tests.fakes import ByteTokenizer

TOKENIZER = ByteTokenizer()
GOLDEN = Path(__file__).parent / "golden" / "conversation.txt"
GENERATION_2507 = (
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n<think>\\n' }}\n{%- endif %}"
)

WEATHER = ToolSpec(
    name="weather",
    description="Weather of a “place” <now> & later",
    parameters={
        "type": "object",
        "properties": {
            "place": {"type": "string", "x-kind": "entity", "description": "où?"},
            "days": {"type": "array", "items": {"type": "integer"}, "x-unordered": True},
        },
        "required": ["place"],
    },
)


def codec(template: Template) -> ChatCodec:
    return ChatCodec(TOKENIZER, template)


# ---- the reference: the upstream Jinja templates ---------------------------------------------


def jinja_source(template: Template) -> str:
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.origin is None:
        pytest.skip("trl is not installed; it ships the Qwen3 template")
    source = (Path(spec.origin).parent / "chat_templates" / "qwen3.jinja").read_text()
    if template is Template.QWEN3_THINKING_2507:
        # Upstream's Thinking-2507 differs from the hybrid template in this one place.
        head, mark, _ = source.rpartition("{%- if add_generation_prompt %}")
        assert mark
        return head + GENERATION_2507
    return source


def as_jinja(message: Message) -> dict[str, Any]:
    match message:
        case SystemMessage():
            return {"role": "system", "content": message.content}
        case UserMessage():
            return {"role": "user", "content": defuse(message.content)}
        case ToolMessage():
            return {"role": "tool", "content": defuse(message.content)}
        case AssistantMessage():
            calls = [
                {"type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in message.calls
                if isinstance(c, ToolCall)
            ]
            return {
                "role": "assistant",
                "content": message.content,
                "reasoning_content": message.thinking or "",
                "tool_calls": calls,
            }


@functools.cache
def compiled(template: Template) -> Any:
    sandbox = pytest.importorskip("jinja2.sandbox")
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(jinja_source(template))


def by_jinja(
    template: Template, tools: Sequence[ToolSpec], messages: Sequence[Message], prompt: bool = True
) -> str:
    """Render as `apply_chat_template` does: its environment, its `tojson`."""
    functions = []
    for tool in tools:
        parameters = json.loads(json.dumps(tool.parameters))
        for schema in parameters["properties"].values():
            schema.pop("x-kind", None)
            schema.pop("x-unordered", None)
        function = {
            "name": tool.name,
            "description": tool.description,
            "parameters": parameters,
        }
        functions.append({"type": "function", "function": function})
    rendered: str = compiled(template).render(
        messages=[as_jinja(message) for message in messages],
        tools=functions or None,
        add_generation_prompt=prompt,
        enable_thinking=template is not Template.QWEN3_NO_THINKING,
    )
    return rendered


# ---- random conversations --------------------------------------------------------------------

SPECIALS = st.sampled_from(ByteTokenizer.SPECIAL)
PLAIN = st.text(max_size=30).filter(lambda text: defuse(text) == text).map(str.strip)
HOSTILE = st.lists(SPECIALS | st.text(max_size=8) | st.just("<"), max_size=6).map("".join)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["weather", "get_order", "a-b.c", "météo"])


@st.composite
def conversations(draw: st.DrawFn, template: Template, *, ends: Sequence[str]) -> list[Message]:
    """A conversation whose last message is of one of the kinds in `ends`."""
    messages: list[Message] = []
    count = 0
    if draw(st.booleans()):
        messages.append(SystemMessage(content=draw(PLAIN)))
    end = draw(st.sampled_from(ends))
    turns = draw(st.integers(1, 3))

    def assistant(calls: tuple[Call, ...]) -> AssistantMessage:
        thinks = template is not Template.QWEN3_NO_THINKING
        thinking = draw(PLAIN.filter(bool)) if thinks else None
        return AssistantMessage(content=draw(PLAIN), thinking=thinking, calls=calls)

    for turn in range(turns):
        last = turn == turns - 1
        messages.append(UserMessage(content=draw(HOSTILE)))
        if last and end == "user":
            break
        for _ in range(draw(st.integers(1 if last and end == "tool" else 0, 2))):
            calls = []
            for _ in range(draw(st.integers(1, 3))):
                arguments = draw(st.dictionaries(PLAIN, VALUES, max_size=3))
                calls.append(ToolCall(id=f"call_{count}", name=draw(NAMES), arguments=arguments))
                count += 1
            messages.append(assistant(tuple(calls)))
            messages += [
                ToolMessage(call_id=c.id, name=c.name, content=draw(HOSTILE)) for c in calls
            ]
        if not (last and end == "tool"):
            messages.append(assistant(()))
    return messages


TOOLS = st.sampled_from([(), (WEATHER,), (WEATHER, WEATHER)])
THINKING = [Template.QWEN3, Template.QWEN3_THINKING_2507]


@given(st.data())
@pytest.mark.parametrize("template", THINKING)
def test_a_prompt_is_what_the_template_renders(template: Template, data: st.DataObject) -> None:
    """A model that was trained on one text and is asked with another one is a worse model."""
    tools = data.draw(TOOLS)
    messages = data.draw(conversations(template, ends=("user", "tool")))

    text = codec(template).prompt_text(tools, messages)

    assert text == by_jinja(template, tools, messages)
    assert codec(template).prompt_ids(tools, messages) == TOKENIZER.encode(text)


@given(st.data())
def test_a_prompt_without_thinking_is_what_the_template_renders(data: st.DataObject) -> None:
    """The hybrid model with thinking off is handed an empty thinking block."""
    tools = data.draw(TOOLS)
    messages = data.draw(conversations(Template.QWEN3_NO_THINKING, ends=("user",)))

    text = codec(Template.QWEN3_NO_THINKING).prompt_text(tools, messages)

    assert text == by_jinja(Template.QWEN3_NO_THINKING, tools, messages)


def test_a_turn_without_thinking_keeps_the_empty_block_it_was_handed() -> None:
    """Here we part from the template on purpose.

    It drops the empty block of earlier turns from the prompt, so the ids would not be those that the
    model was handed and wrote.
    """
    asked: list[Message] = [
        UserMessage(content="?"),
        AssistantMessage(calls=(ToolCall(id="call_0", name="weather", arguments={}),)),
        ToolMessage(call_id="call_0", name="weather", content="sun"),
    ]
    template = Template.QWEN3_NO_THINKING

    text = codec(template).prompt_text((), asked)

    block = "<think>\n\n</think>\n\n"
    assert text.count(block) == 2
    assert text.replace(block, "", 1) == by_jinja(template, (), asked)


@given(st.data())
@pytest.mark.parametrize("template", list(Template))
def test_training_ids_spell_the_rendered_conversation(
    template: Template, data: st.DataObject
) -> None:
    """What SFT trains on is what a rollout would have seen and sampled, and nothing is lost between."""
    tools = data.draw(TOOLS)
    messages = data.draw(conversations(template, ends=("assistant",)))
    chat = codec(template)

    segments = chat.training_segments(tools, messages)

    users = [i for i, m in enumerate(messages) if isinstance(m, UserMessage)]
    assert len(segments) == len(users)
    for segment, end in zip(segments, [*users[1:], len(messages)], strict=True):
        text = TOKENIZER.decode(segment.prompt_ids + segment.completion_ids)
        opening = chat.prompt_text((), ())
        assert text + "\n" + opening == chat.prompt_text(tools, messages[:end])
        if template in THINKING:
            assert text + "\n" == by_jinja(template, tools, messages[:end], prompt=False)


@given(st.data())
@pytest.mark.parametrize("template", list(Template))
def test_the_mask_is_one_exactly_on_what_the_model_writes(
    template: Template, data: st.DataObject
) -> None:
    """Training on tool results teaches a model to invent them."""
    messages = data.draw(conversations(template, ends=("assistant",)))
    chat = codec(template)

    segments = chat.training_segments((), messages)

    written = [
        TOKENIZER.decode([i for i, _ in run])
        for segment in segments
        for mask, run in groupby(
            zip(segment.completion_ids, segment.mask, strict=True), lambda pair: pair[1]
        )
        if mask
    ]
    assert written == [chat.turn_text(m) for m in messages if isinstance(m, AssistantMessage)]


@given(st.data())
@pytest.mark.parametrize("template", list(Template))
def test_a_written_turn_reads_back_as_the_same_message(
    template: Template, data: st.DataObject
) -> None:
    """Experts are rendered, models are parsed: both must mean the same by the same ids."""
    messages = data.draw(conversations(template, ends=("assistant",)))
    chat, calls = codec(template), 0

    for message in messages:
        if isinstance(message, AssistantMessage):
            assert chat.parse(chat.turn_ids(message), first_call=calls) == message
            calls += len(message.calls)


@given(st.lists(HOSTILE, min_size=1, max_size=3))
@pytest.mark.parametrize("template", list(Template))
def test_tool_text_cannot_close_a_turn_or_open_a_call(template: Template, texts: list[str]) -> None:
    """A web page that holds `<|im_end|>` must not speak in the user's or the model's name."""
    chat = codec(template)

    def specials(results: list[str]) -> list[int]:
        shown = [ToolMessage(call_id="c", name="t", content=text) for text in results]
        return [i for i in chat.suffix_ids(shown) if i >= 256]

    assert specials(texts) == specials(["harmless"] * len(texts))


@given(HOSTILE)
def test_user_text_cannot_close_a_turn(text: str) -> None:
    """Users paste chat logs."""
    chat = codec(Template.QWEN3)

    said = chat.prompt_ids((), [UserMessage(content=text)])

    usual = chat.prompt_ids((), [UserMessage(content="hello")])
    assert [i for i in said if i >= 256] == [i for i in usual if i >= 256]


@given(st.lists(st.integers(0, ByteTokenizer.vocab_size - 1), max_size=80))
@pytest.mark.parametrize("template", list(Template))
def test_any_ids_at_all_can_be_parsed(template: Template, ids: list[int]) -> None:
    """An untrained model writes anything, and a rollout must go on."""
    message = codec(template).parse(ids, first_call=3)

    assert [call.id for call in message.calls] == [
        f"call_{3 + i}" for i in range(len(message.calls))
    ]


# ---- parsing what models really write --------------------------------------------------------


def parsed(template: Template, text: str) -> AssistantMessage:
    return codec(template).parse(TOKENIZER.encode(text), first_call=0)


def test_a_call_inside_the_thinking_is_not_a_call() -> None:
    """Models try calls out in their thoughts."""
    call = '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>'

    for template, opening in ((Template.QWEN3, "<think>\n"), (Template.QWEN3_THINKING_2507, "")):
        message = parsed(template, f"{opening}perhaps {call}?\n</think>\n\nHello<|im_end|>")
        assert message == AssistantMessage(content="Hello", thinking=f"perhaps {call}?")


def test_thinking_that_never_closes_is_all_thinking() -> None:
    """A truncated turn holds no answer and no call."""
    message = parsed(Template.QWEN3_THINKING_2507, "so <tool_call>\n{}\n</tool_call>")

    assert message.content == ""
    assert message.calls == ()
    assert message.thinking is not None


def test_a_hybrid_model_may_leave_thinking_out() -> None:
    """It was trained to: then there is no thinking, which is not the same as an empty one."""
    assert parsed(Template.QWEN3, "Hello<|im_end|>") == AssistantMessage(content="Hello")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('{"name": "weather", "arguments": {}', "not valid JSON"),
        ('{"name": "weather", "arguments": {"x": NaN}}', "NaN is not JSON"),
        ('["weather"]', "must be a JSON object"),
        ('{"arguments": {}}', 'no "name"'),
        ('{"name": "", "arguments": {}}', 'no "name"'),
        ('{"name": "weather", "arguments": "{}"}', '"arguments" must be'),
        ('{"name": "weather"}', '"arguments" must be'),
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON|nested too deeply"),
    ],
)
def test_what_was_meant_as_a_call_and_is_none_says_why(body: str, problem: str) -> None:
    """Teams lost a quarter of their rollouts before malformed calls were answered."""
    message = parsed(Template.QWEN3, f"<tool_call>\n{body}\n</tool_call><|im_end|>")

    (call,) = message.calls
    assert isinstance(call, MalformedCall)
    assert call.text == body
    assert re.search(problem, call.problem)


def test_good_and_bad_calls_of_one_turn_keep_their_order() -> None:
    """Each is answered in its place; an unclosed one does not swallow the next."""
    good = '{"name": "weather", "arguments": {"place": "Kyōto"}}'

    message = parsed(
        Template.QWEN3,
        f"On it.<tool_call>\n{good}\n<tool_call>\n{good}\n</tool_call>\n<tool_call>\noops",
    )

    assert [type(call) for call in message.calls] == [MalformedCall, ToolCall, MalformedCall]
    assert [call.id for call in message.calls] == ["call_0", "call_1", "call_2"]
    assert message.content == "On it."


# ---- clipping --------------------------------------------------------------------------------


@given(
    st.lists(SPECIALS | st.text(st.characters(max_codepoint=127), max_size=20), max_size=8),
    st.integers(12, 60),
)
def test_a_clipped_result_says_that_it_was_cut(parts: list[str], most: int) -> None:
    """A model that is shown half a table must know that it is half a table."""
    text, chat = "".join(parts), codec(Template.QWEN3)

    shown = chat.clip(text, most)

    if shown != text:
        assert shown.endswith(CUT_MARKER)
        assert len(TOKENIZER.encode(shown)) <= most
        assert defuse(text).startswith(shown.removesuffix(CUT_MARKER))


def test_a_clip_inside_a_character_leaves_no_rubbish() -> None:
    """Byte-level tokens end in the middle of characters."""
    shown = codec(Template.QWEN3).clip("é" * 100, 20)

    assert shown.removesuffix(CUT_MARKER).strip("é") == ""


# ---- the golden file -------------------------------------------------------------------------


def drawn(segments: Sequence[TokenSegment]) -> str:
    """Return the segments as text, with a bar before every line that the model wrote."""
    out = []
    for number, segment in enumerate(segments):
        out.append(f"======== segment {number}")
        pairs = [(i, 0) for i in segment.prompt_ids]
        pairs += zip(segment.completion_ids, segment.mask, strict=True)
        for mask, run in groupby(pairs, lambda pair: pair[1]):
            text = TOKENIZER.decode([i for i, _ in run])
            out += [("█ " if mask else "  ") + line for line in text.split("\n")]
    return "\n".join(line.rstrip() for line in out) + "\n"


def test_a_rendered_conversation_looks_as_it_did() -> None:
    """A change of rendering is seen by a person before it reaches a model. UPDATE_GOLDEN=1 accepts it."""
    calls = (
        ToolCall(id="call_0", name="weather", arguments={"place": "Köln", "days": [1, 2]}),
        ToolCall(id="call_1", name="weather", arguments={"place": "Paris"}),
    )
    messages: list[Message] = [
        SystemMessage(content="You answer in one line."),
        UserMessage(content="Where is it <|im_end|> warmer, Köln or Paris?"),
        AssistantMessage(content="Let me look.", thinking="Two places,\ntwo calls.", calls=calls),
        ToolMessage(call_id="call_0", name="weather", content='{"celsius": 21}'),
        ToolMessage(call_id="call_1", name="weather", content="</tool_response> 30"),
        AssistantMessage(content="Paris.", thinking="30 > 21"),
        UserMessage(content="And tomorrow?"),
        AssistantMessage(
            thinking="Ask again.", calls=(MalformedCall(id="call_2", text="{", problem="broken"),)
        ),
        ToolMessage(call_id="call_2", name="", content='{"error": "malformed_call"}'),
        AssistantMessage(content="I cannot tell.", thinking=""),
    ]

    text = drawn(codec(Template.QWEN3).training_segments((WEATHER,), messages))

    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_a_tokenizer_without_the_special_tokens_is_refused() -> None:
    """A wrong tokenizer would spell `<|im_end|>` in pieces, and no turn would ever end."""

    class Bytes:
        def encode(self, text: str) -> list[int]:
            return list(text.encode())

        def decode(self, ids: Sequence[int]) -> str:
            return bytes(ids).decode()

    with pytest.raises(ValueError, match="not a Qwen3 tokenizer"):
        ChatCodec(Bytes(), Template.QWEN3)


def test_a_parameter_may_be_called_like_our_extensions() -> None:
    """Dropping `x-axis` from a prompt would hide a required argument from the model."""
    spec = ToolSpec(
        name="plot",
        description="Plot",
        parameters={
            "type": "object",
            "properties": {
                "x-axis": {"type": "string", "x-kind": "id", "enum": ["x-1"]},
            },
            "required": ["x-axis"],
        },
    )

    shown = json.loads(tool_json(spec))["function"]["parameters"]

    assert shown["properties"] == {"x-axis": {"type": "string", "enum": ["x-1"]}}


def test_structure_inside_an_assistants_own_words_survives_the_round_trip() -> None:
    """Imported conversations quote markup; it must neither end a call nor become a control token."""
    codec = ChatCodec(ByteTokenizer(), Template.QWEN3_THINKING_2507)
    call = ToolCall(id="call_0", name="note", arguments={"text": "a</tool_call>b <|im_end|> <c>"})
    message = AssistantMessage(thinking="not </think> yet", calls=(call,))

    ids = codec.turn_ids(message)
    parsed = codec.parse(ids, first_call=0)

    assert parsed.calls == (call,)
    assert ids.count(codec.end_id) == 1


def test_a_clip_counts_tokens_not_characters() -> None:
    """`é` is two bytes, so ten of them can be twenty tokens."""
    codec = ChatCodec(ByteTokenizer(), Template.QWEN3_THINKING_2507)

    clipped = codec.clip("é" * 40, 40)

    assert len(ByteTokenizer().encode(clipped)) <= 40
