"""What a token costs: known and dated, or said to be unknown."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.core.errors import DataError
from cacherl.teacher.prices import NANO, PriceTable, TokensUsed

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
MILLION = 1_000_000
OWN = """
as_of = 2026-11-01
[prices."openai:gpt-5"]
prompt = 2.0
cached_prompt = 0.5
completion = 20
batch = 0.25
[prices."openai:local@http://127.0.0.1:8000/v1"]
prompt = 0
completion = 0
"""


def dollars(table: PriceTable, model: str, *, batched: bool = False, **used: int) -> float | None:
    tokens = TokensUsed(**{"prompt": 0, "completion": 0, **used})
    nano = table.nanodollars(model, tokens, at=AT, batched=batched)
    return None if nano is None else nano / NANO


def test_the_bundled_list_knows_the_large_providers() -> None:
    """Nobody should have to look a price up before the first run. (Prices of models that no longer change.)"""
    table = PriceTable()

    assert dollars(table, "openai:gpt-4o", prompt=MILLION) == pytest.approx(2.5)
    assert dollars(table, "openai:gpt-4o", completion=MILLION) == pytest.approx(10.0)
    assert dollars(table, "anthropic:claude-3-opus-20240229", prompt=1000) == pytest.approx(0.015)
    assert dollars(table, "deepseek:deepseek-chat", prompt=1000) is not None
    half = dollars(table, "openai:gpt-4o", prompt=MILLION, batched=True)
    assert half == pytest.approx(1.25)
    source = table.source("openai:gpt-4o")
    assert source is not None
    assert source.startswith("genai-prices ")
    assert "newest change 202" in source


def test_a_model_nobody_knows_has_no_price() -> None:
    """A guess from a similar name would be believed."""
    table = PriceTable()

    for model in ("openai:no-such-model", "nobody:gpt-5", "openai:gpt-5@http://127.0.0.1:8000/v1"):
        assert dollars(table, model, prompt=1) is None
        assert table.source(model) is None
        assert "no price is known" in table.show(model)


def test_an_address_decides_over_the_name_of_the_protocol() -> None:
    """DeepSeek asked through OpenAI's protocol costs what DeepSeek costs."""
    table = PriceTable()

    assert dollars(table, "openai:deepseek-chat@https://api.deepseek.com/v1", prompt=MILLION) == (
        dollars(table, "deepseek:deepseek-chat", prompt=MILLION)
    )


def test_a_file_of_ones_own_wins(tmp_path: Path) -> None:
    """Prices change, discounts exist, and a server of one's own may be free."""
    path = tmp_path / "prices.toml"
    path.write_text(OWN)
    table = PriceTable.read(path)

    assert dollars(table, "openai:gpt-5", prompt=MILLION, completion=MILLION) == 22.0
    assert dollars(table, "openai:gpt-5", prompt=MILLION, cached_prompt=MILLION) == 0.5
    assert dollars(table, "openai:gpt-5", prompt=MILLION, batched=True) == 0.5
    assert dollars(table, "openai:local@http://127.0.0.1:8000/v1", prompt=MILLION) == 0.0
    assert dollars(table, "openai:gpt-4o", prompt=MILLION) == pytest.approx(2.5)
    shown = table.show("openai:gpt-5")
    assert "$2 prompt, $0.5 cached, $20 completion per million tokens" in shown
    assert f"{path}, as of 2026-11-01" in shown


def test_prices_once_named_are_kept_with_the_journal(tmp_path: Path) -> None:
    """A judge's run without --prices must count the teacher's requests at the prices they had."""
    path = tmp_path / "prices.toml"
    path.write_text(OWN)
    PriceTable.read(path, tmp_path).keep(tmp_path)
    path.write_text('as_of = 2026-12-01\n[prices."openai:judge"]\nprompt = 3\ncompletion = 3\n')
    PriceTable.read(path, tmp_path).keep(tmp_path)
    path.unlink()

    table = PriceTable.read(None, tmp_path)

    assert dollars(table, "openai:gpt-5", prompt=MILLION, completion=MILLION) == 22.0
    assert dollars(table, "openai:judge", prompt=MILLION) == 3.0
    assert (table.source("openai:gpt-5") or "").endswith("as of 2026-11-01")
    assert (table.source("openai:judge") or "").endswith("as of 2026-12-01")
    (tmp_path / "prices.json").write_text("[]")
    with pytest.raises(DataError, match="Delete it, and name your file once more with --prices"):
        PriceTable.read(None, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prices = 1", "Expected `object`"),
        ('as_of = 2026-11-01\n[prices."openai:m"]\npromt = 1\ncompletion = 1', "promt"),
        ('[prices."openai:m"]\nprompt = 1\ncompletion = 1', "as_of"),
        ("as_of = ", "Invalid value"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    """A misspelt field must not be a price of nothing."""
    path = tmp_path / "prices.toml"
    path.write_text(text)

    with pytest.raises(DataError) as caught:
        PriceTable.read(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        PriceTable.read(tmp_path / "none.toml")


@given(
    st.sampled_from(["openai:gpt-5", "anthropic:claude-sonnet-4-5", "deepseek:deepseek-chat"]),
    st.integers(0, 400_000),
    st.integers(0, 100_000),
    st.floats(0, 1),
    st.floats(0, 1),
    st.booleans(),
)
def test_no_reply_costs_more_than_the_most_it_can(
    model: str, prompt: int, completion: int, cached: float, written: float, batched: bool
) -> None:
    """What a budget sets aside must cover what comes."""
    table = PriceTable()
    hit = int(prompt * cached)
    used = TokensUsed(
        prompt=prompt,
        completion=completion,
        cached_prompt=hit,
        cache_write=int((prompt - hit) * written),
    )
    cost = table.nanodollars(model, used, at=AT, batched=batched)
    most = table.most_nanodollars(model, prompt=prompt, completion=completion, at=AT)

    assert cost is not None
    assert most is not None
    assert cost <= most
