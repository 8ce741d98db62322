"""The chat codec: messages to token ids and back, for the Qwen3 family.

Two templates, which differ in one thing that ruins runs when missed: the generation prompt of
Qwen3-Thinking-2507 already opens `<think>`, so what the model writes holds only `</think>`. The hybrid
Qwen3 writes `<think>` itself, or is handed an empty thinking block when thinking is off.

Both drop the thinking of earlier user turns from history. A conversation is therefore a list of
*segments*, one a user turn: within a segment ids are only ever appended, never re-tokenized.

`tests/test_render.py` compares every rendering with the Jinja templates, id for id.

Source: chat templates of Qwen/Qwen3-4B and Qwen/Qwen3-4B-Thinking-2507 (Apache-2.0).
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

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
from cacherl.core.tasks import offered
from cacherl.core.tools import ToolSpec
from cacherl.core.trajectories import TokenSegment


class Template(enum.StrEnum):
    """Which chat template a model was trained with."""

    QWEN3 = "qwen3"
    """Hybrid, thinking on: the model writes `<think>` itself."""
    QWEN3_NO_THINKING = "qwen3-no-thinking"
    """Hybrid, thinking off: the prompt ends with an empty thinking block."""
    QWEN3_THINKING_2507 = "qwen3-thinking-2507"
    """Thinking only: the prompt ends with an open `<think>`."""


class Tokenizer(Protocol):
    """What the codec needs of a tokenizer. Special tokens in the text become their ids."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; no token is added that the text does not hold."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids, special tokens included."""
        ...


_TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
_END = "<|im_end|>"
_GENERATION = {
    Template.QWEN3: "<|im_start|>assistant\n",
    Template.QWEN3_NO_THINKING: "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    Template.QWEN3_THINKING_2507: "<|im_start|>assistant\n<think>\n",
}
CUT_MARKER = "... [cut]"
_STRUCTURE = re.compile(
    r"<(?=\|im_start\|>|\|im_end\|>|\|endoftext\|>|/?think>|/?tool_call>|/?tool_response>)"
)
_CALL = re.compile(r"<tool_call>(.*?)(</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)


def defuse(text: str) -> str:
    r"""Return text from users and tools with the template's own tokens made harmless.

    Untrusted text must not be able to close a turn or open a call, so `<|im_end|>` becomes
    `<\u200b|im_end|>`: it looks the same and tokenizes as plain text.
    """
    return _STRUCTURE.sub("<\u200b", text)


def _without_extensions(schema: Any) -> Any:
    """Drop our `x-` keywords; a *parameter* may be called `x-axis`, and values are not keywords."""
    if isinstance(schema, list):
        return [_without_extensions(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    shown = {}
    for key, value in schema.items():
        if key in ("properties", "$defs", "patternProperties") and isinstance(value, dict):
            shown[key] = {name: _without_extensions(inner) for name, inner in value.items()}
        elif key in ("enum", "const", "default", "examples"):
            shown[key] = value
        elif not key.startswith("x-"):
            shown[key] = _without_extensions(value)
    return shown


def tool_json(spec: ToolSpec) -> str:
    """Return the tool as the prompt shows it: OpenAI's function form, without our `x-` keys."""
    function = {
        "name": spec.name,
        "description": spec.description,
        "parameters": _without_extensions(spec.parameters),
    }
    return json.dumps({"type": "function", "function": function}, ensure_ascii=False)


def _call_text(call: Call) -> str:
    if isinstance(call, MalformedCall):
        body = call.text
    else:
        # `</tool_call>` within a value must not end the call: JSON has another spelling for `<`.
        arguments = _STRUCTURE.sub(r"\\u003c", json.dumps(call.arguments, ensure_ascii=False))
        body = f'{{"name": "{call.name}", "arguments": {arguments}}}'
    return f"<tool_call>\n{body}\n</tool_call>"


def _body_text(message: AssistantMessage) -> str:
    """Return content and calls, joined as the templates join them."""
    parts = [defuse(message.content)] if message.content else []
    return "\n".join(parts + [_call_text(call) for call in message.calls])


def _problem(body: str) -> str | None:
    """Return why `body` is no call, or None."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except ValueError as error:
        return f"the tool call is not valid JSON: {error}"
    except RecursionError:
        return "the tool call is nested too deeply"
    if not isinstance(value, dict):
        return "the tool call must be a JSON object with name and arguments"
    if not isinstance(value.get("name"), str) or not value["name"]:
        return 'the tool call has no "name"'
    if not isinstance(value.get("arguments"), dict):
        return '"arguments" must be a JSON object'
    return None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


class ChatCodec:
    """Messages to ids and back, for one tokenizer and one template. Stateless."""

    def __init__(self, tokenizer: Tokenizer, template: Template) -> None:
        self.template = template
        self._tokenizer = tokenizer
        self.end_id = self._single(_END)
        self.stop_ids = frozenset({self.end_id, self._single("<|endoftext|>")})

    def _single(self, token: str) -> int:
        ids = self._tokenizer.encode(token)
        if len(ids) != 1:
            raise ValueError(
                f"the tokenizer has no single token {token}; it is not a Qwen3 tokenizer"
            )
        return ids[0]

    # ---- to ids ------------------------------------------------------------------------------

    def prompt_ids(self, tools: Sequence[ToolSpec], messages: Sequence[Message]) -> list[int]:
        """Return the ids of the whole conversation and the opening of the next assistant turn.

        Thinking is kept in the assistant turns after the last user message and dropped before
        it, as the templates do.
        """
        return self._tokenizer.encode(self.prompt_text(tools, messages))

    def prompt_text(self, tools: Sequence[ToolSpec], messages: Sequence[Message]) -> str:
        """Return what `prompt_ids` encodes."""
        system = (
            messages[0].content if messages and isinstance(messages[0], SystemMessage) else None
        )
        rest = messages[1:] if system is not None else messages
        out = []
        if tools:
            lead = f"{system}\n\n" if system is not None else ""
            listing = "".join(f"\n{tool_json(tool)}" for tool in tools)
            out.append(f"<|im_start|>system\n{lead}{_TOOLS_HEAD}{listing}{_TOOLS_TAIL}{_END}\n")
        elif system is not None:
            out.append(f"<|im_start|>system\n{system}{_END}\n")
        last_user = max((i for i, m in enumerate(rest) if isinstance(m, UserMessage)), default=-1)
        for index, message in enumerate(rest):
            previous = rest[index - 1] if index else None
            following = rest[index + 1] if index + 1 < len(rest) else None
            out.append(self._message_text(message, previous, following, index > last_user))
        return "".join(out) + _GENERATION[self.template]

    def _message_text(
        self, message: Message, previous: Message | None, following: Message | None, current: bool
    ) -> str:
        match message:
            case SystemMessage():
                return f"<|im_start|>system\n{message.content}{_END}\n"
            case UserMessage():
                return f"<|im_start|>user\n{defuse(message.content)}{_END}\n"
            case AssistantMessage():
                if current:
                    return f"<|im_start|>assistant\n{self._thought(message)}{_body_text(message)}{_END}\n"
                return f"<|im_start|>assistant\n{_body_text(message)}{_END}\n"
            case ToolMessage():
                head = "" if isinstance(previous, ToolMessage) else "<|im_start|>user"
                tail = "" if isinstance(following, ToolMessage) else f"{_END}\n"
                return f"{head}\n<tool_response>\n{defuse(message.content)}\n</tool_response>{tail}"

    def _thought(self, message: AssistantMessage) -> str:
        thinking = defuse((message.thinking or "").strip("\n"))
        return f"<think>\n{thinking}\n</think>\n\n"

    def turn_ids(self, message: AssistantMessage) -> list[int]:
        """Return the ids a model would have to write for this turn, `<|im_end|>` included."""
        return self._tokenizer.encode(self.turn_text(message))

    def turn_text(self, message: AssistantMessage) -> str:
        """Return what `turn_ids` encodes."""
        whole = f"<|im_start|>assistant\n{self._thought(message)}{_body_text(message)}{_END}"
        return whole.removeprefix(_GENERATION[self.template])

    def suffix_ids(self, results: Sequence[ToolMessage]) -> list[int]:
        """Return the ids that go between a closed assistant turn and the next one.

        All results of one turn share one user turn; the newline after `<|im_end|>` that a model
        never writes is put back.
        """
        return self._tokenizer.encode(self.suffix_text(results))

    def suffix_text(self, results: Sequence[ToolMessage]) -> str:
        """Return what `suffix_ids` encodes."""
        body = "".join(f"\n<tool_response>\n{defuse(r.content)}\n</tool_response>" for r in results)
        return f"\n<|im_start|>user{body}{_END}\n{_GENERATION[self.template]}"

    def clip(self, text: str, max_tokens: int) -> str:
        """Return `text`, cut to at most `max_tokens` with a visible marker where it is longer."""
        if len(defuse(text).encode()) <= max_tokens:  # a byte-level token is at least one byte
            return text
        ids = self._tokenizer.encode(defuse(text))
        if len(ids) <= max_tokens:
            return text
        keep = max(0, max_tokens - len(self._tokenizer.encode(CUT_MARKER)))
        return self._tokenizer.decode(ids[:keep]).rstrip("\ufffd") + CUT_MARKER

    def training_segments(
        self,
        tools: Sequence[ToolSpec],
        messages: Sequence[Message],
        late: Mapping[str, int] | None = None,
    ) -> list[TokenSegment]:
        """Return the token streams that would have produced this conversation, one a user turn.

        The mask is 1 on every id of an assistant turn of that user turn, `<|im_end|>` included, and 0
        on everything else: exactly what the engine would have sampled. `late` is `Task.late`.
        """
        segments: list[TokenSegment] = []
        start = 0
        while start < len(messages):
            first = next(
                (
                    i
                    for i in range(start, len(messages))
                    if isinstance(messages[i], AssistantMessage)
                ),
                None,
            )
            if first is None:
                break
            end = next(
                (i for i in range(first, len(messages)) if isinstance(messages[i], UserMessage)),
                len(messages),
            )
            said = sum(isinstance(message, UserMessage) for message in messages[:first])
            shown = offered(tools, late or {}, said - 1)
            segments.append(self._segment(shown, messages[:first], messages[first:end]))
            start = end
        return segments

    def _segment(
        self, tools: Sequence[ToolSpec], before: Sequence[Message], turns: Sequence[Message]
    ) -> TokenSegment:
        ids: list[int] = []
        mask: list[int] = []
        pending: list[ToolMessage] = []
        for message in turns:
            if isinstance(message, ToolMessage):
                pending.append(message)
            elif isinstance(message, AssistantMessage):
                if pending:
                    injected = self.suffix_ids(pending)
                    ids += injected
                    mask += [0] * len(injected)
                    pending = []
                written = self.turn_ids(message)
                ids += written
                mask += [1] * len(written)
        return TokenSegment(
            prompt_ids=tuple(self.prompt_ids(tools, before)),
            completion_ids=tuple(ids),
            mask=tuple(mask),
        )

    # ---- from ids ----------------------------------------------------------------------------

    def parse(self, ids: Sequence[int], *, first_call: int) -> AssistantMessage:
        """Return the message that the sampled ids of one turn say.

        A `<tool_call>` inside the thinking is not a call. A turn that never closes its thinking is all
        thinking. What was meant as a call and is none becomes a `MalformedCall`.

        Args:
            ids: the sampled ids, with or without the closing token.
            first_call: number of calls made before in this conversation; ids of calls go on from it.
        """
        while ids and ids[-1] in self.stop_ids:
            ids = ids[:-1]
        text = self._tokenizer.decode(ids)
        thinking, text = self._split_thinking(text)
        calls: list[Call] = []
        for match in _CALL.finditer(text):
            body = match.group(1).strip()
            call_id = f"call_{first_call + len(calls)}"
            problem = None if match.group(2) else "the tool call was never closed with </tool_call>"
            problem = problem or _problem(body)
            if problem:
                calls.append(MalformedCall(id=call_id, text=body, problem=problem))
            else:
                value = json.loads(body)
                calls.append(ToolCall(id=call_id, name=value["name"], arguments=value["arguments"]))
        content = _CALL.sub("", text).strip()
        return AssistantMessage(content=content, thinking=thinking, calls=tuple(calls))

    def _split_thinking(self, text: str) -> tuple[str | None, str]:
        if self.template is Template.QWEN3_NO_THINKING:
            return None, text
        if self.template is Template.QWEN3:
            stripped = text.lstrip()
            if not stripped.startswith("<think>"):
                return None, text
            text = stripped.removeprefix("<think>")
        thinking, closed, rest = text.partition("</think>")
        return (thinking.strip(), rest) if closed else (text.strip(), "")
