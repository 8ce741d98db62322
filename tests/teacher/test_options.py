"""Names of paid models, and options that cannot be meant."""

from __future__ import annotations

from typing import Any

import pytest

from cacherl.core.errors import RecipeError
from cacherl.teacher.options import Endpoint, TeacherOptions
from cacherl.wiring import names_endpoint, paid_model


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [
        ("openai:gpt-5", Endpoint(provider="openai", model="gpt-5")),
        (
            "openai:org/my-model:free@http://127.0.0.1:8000/v1/",
            Endpoint(provider="openai", model="org/my-model:free", url="http://127.0.0.1:8000/v1"),
        ),
        (
            "vertexai:claude-sonnet-4-5@20250929",
            Endpoint(provider="vertexai", model="claude-sonnet-4-5@20250929"),
        ),
    ],
)
def test_a_name_says_provider_model_and_address(name: str, endpoint: Endpoint) -> None:
    """Models have colons, slashes and at-signs of their own."""
    assert Endpoint.parse(name) == endpoint
    assert names_endpoint(name)


@pytest.mark.parametrize(
    "name", ["gpt-5", "openai:", ":gpt-5", "OpenAI:gpt-5", "openai:@http://x/v1"]
)
def test_what_names_no_model_is_told_with_examples(name: str) -> None:
    """The line itself must show how it is written."""
    with pytest.raises(RecipeError, match=r"Write PROVIDER:MODEL or PROVIDER:MODEL@URL"):
        Endpoint.parse(name)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    """The name stands in every trajectory that the model makes."""
    with pytest.raises(RecipeError, match="OPENAI_API_KEY") as caught:
        Endpoint.parse("openai:m@https://me:hunter2@models.example/v1")

    assert "hunter2" not in str(caught.value)


def test_folders_and_hub_names_are_no_endpoints() -> None:
    """A checkpoint must not be sent to a provider."""
    for name in ("models/tiny", "Qwen/Qwen3-4B", "expert", "./runs/a", "desk"):
        assert not names_endpoint(name)


def test_an_unknown_provider_is_told_before_any_work(tmp_path: Any) -> None:
    """Not after an hour of tool calls."""
    with pytest.raises(RecipeError, match=r"no such provider\. There are: .*openai"):
        paid_model("nobody:gpt-5", journal=tmp_path / "journal")
    with pytest.raises(RecipeError, match="batch mode is known for openai and anthropic only"):
        paid_model("deepseek:deepseek-chat", journal=None, options=TeacherOptions(batch=True))
    assert not (tmp_path / "journal").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget_dollars": 0.0},
        {"budget_dollars": float("nan")},
        {"budget_dollars": float("inf")},
        {"retries": -1},
        {"timeout_s": 0.0},
        {"requests_per_minute": -5.0},
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    """A budget of nothing is a slip of the keyboard."""
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        TeacherOptions(**wrong)
