"""What a token costs: the bundled list of genai-prices, and a file of one's own that wins over it.

    as_of = 2026-11-01                  # when you looked the prices up
    [prices."openai:gpt-5"]             # dollars per million tokens
    prompt = 1.25
    cached_prompt = 0.125               # left out: as `prompt`
    cache_write = 1.25                  # left out: as `prompt`
    completion = 10
    batch = 0.5                         # the share of the price that a batch costs; left out: all of it

A model that neither knows has no price: nothing is guessed from its name. What a person's files said is kept
beside the journal (`prices.json`), so that every later stage of the folder counts at the same prices.
"""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec

from cacherl.core.errors import DataError, MissingExtraError
from cacherl.core.jsonl import atomic_writer
from cacherl.core.records import Record
from cacherl.teacher.options import Endpoint

NANO = 1_000_000_000
"""Nanodollars in a dollar: sums are kept whole, so that a ledger read again is equal to the digit."""


class Price(Record, frozen=True, kw_only=True):
    """Dollars per million tokens."""

    prompt: float
    completion: float
    cached_prompt: float | None = None
    cache_write: float | None = None
    batch: float = 1.0


class PricesFile(Record, frozen=True, kw_only=True):
    """A person's own prices."""

    as_of: date
    prices: dict[str, Price]


class KeptPrice(Record, frozen=True, kw_only=True):
    """A price that a person named."""

    price: Price
    source: str
    """The file it stood in, and of when it is."""


KEPT = "prices.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensUsed:
    """What one reply used."""

    prompt: int
    completion: int
    cached_prompt: int = 0
    """Of `prompt`, read from the provider's cache."""
    cache_write: int = 0
    """Of `prompt`, written to it at a price of its own."""


class PriceTable:
    """Prices by the name of the model: `openai:gpt-5`, `openai:deepseek-chat@https://api.deepseek.com`."""

    def __init__(
        self,
        own: PricesFile | None = None,
        path: Path | None = None,
        kept: Mapping[str, KeptPrice] | None = None,
    ) -> None:
        """`own` wins over `kept`, and that over the bundled list; `path` is what `own` is called."""
        self._own = dict(kept or {})
        if own is not None:
            source = f"{path or 'own prices'}, as of {own.as_of}"
            self._own |= {
                model: KeptPrice(price=price, source=source) for model, price in own.prices.items()
            }

    @classmethod
    def read(cls, path: Path | None, journal: Path | None = None) -> PriceTable:
        """Return the table with the prices of the file on top, and those kept with a journal beneath.

        Raises:
            DataError: there is no such file, or it is none of prices.
        """
        kept = _kept(journal) if journal is not None else {}
        if path is None:
            return cls(kept=kept)
        example = 'as_of = 2026-11-01 and [prices."openai:gpt-5"] with prompt and completion'
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
            return cls(msgspec.convert(raw, PricesFile), path, kept)
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}). Name a TOML file that holds {example}."
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
            raise DataError(f"{path}: no file of prices: {error}. It holds {example}.") from error

    def keep(self, journal: Path) -> None:
        """Keep a person's own prices in the folder of a journal, which is there."""
        if self._own and self._own != _kept(journal):
            with atomic_writer(journal / KEPT) as handle:
                handle.write(msgspec.json.format(msgspec.json.encode(self._own), indent=2) + b"\n")

    def nanodollars(
        self, model: str, used: TokensUsed, *, at: datetime, batched: bool = False
    ) -> int | None:
        """Return what the tokens cost, in billionths of a dollar; None where no price is known."""
        named = self._named(model)
        if named is not None:
            own = named.price
            cached = min(used.cached_prompt, used.prompt)
            written = min(used.cache_write, used.prompt - cached)
            dollars = (
                (used.prompt - cached - written) * own.prompt
                + cached * (own.prompt if own.cached_prompt is None else own.cached_prompt)
                + written * (own.prompt if own.cache_write is None else own.cache_write)
                + used.completion * own.completion
            ) / 1e6
            return round(dollars * (own.batch if batched else 1.0) * NANO)
        found = _bundled(model)
        if found is None:
            return None
        from genai_prices import Usage

        provider, info = found
        cached = min(used.cached_prompt, used.prompt)
        price = info.calc_price(
            Usage(
                input_tokens=used.prompt,
                cache_read_tokens=cached,
                cache_write_tokens=min(used.cache_write, used.prompt - cached),
                output_tokens=used.completion,
            ),
            provider,
            genai_request_timestamp=at,
            price_context={"processing": "batch"} if batched else None,
        )
        nano: int = round(price.total_price * NANO)
        return nano

    def most_nanodollars(
        self, model: str, *, prompt: int, completion: int, at: datetime, batched: bool = False
    ) -> int | None:
        """Return the most that so many tokens can cost: nothing cached, or all of it written to the cache."""
        plain = TokensUsed(prompt=prompt, completion=completion)
        written = TokensUsed(prompt=prompt, completion=completion, cache_write=prompt)
        costs = [self.nanodollars(model, used, at=at, batched=batched) for used in (plain, written)]
        known = [cost for cost in costs if cost is not None]
        return max(known) + 1 if known else None

    def source(self, model: str) -> str | None:
        """Return where the model's price comes from and how old it is; None where no price is known."""
        named = self._named(model)
        if named is not None:
            return named.source
        return bundled_source() if _bundled(model) is not None else None

    def show(self, model: str, *, at: datetime | None = None) -> str:
        """Return one line on what is believed of the model's price."""
        source = self.source(model)
        if source is None:
            return f"{model}: no price is known; dollars will be unknown"
        moment = at or datetime.now(UTC)
        million = 1_000_000

        def dollars(used: TokensUsed, *, batched: bool = False) -> str:
            nano = self.nanodollars(model, used, at=moment, batched=batched)
            return f"${(nano or 0) / NANO:g}"

        prompt = TokensUsed(prompt=million, completion=0)
        cached = TokensUsed(prompt=million, completion=0, cached_prompt=million)
        completion = TokensUsed(prompt=0, completion=million)
        # A long prompt may have a price of its own: what is shown is that of a million tokens at once.
        return (
            f"{model}: {dollars(prompt)} prompt, {dollars(cached)} cached, {dollars(completion)} completion "
            f"per million tokens; in a batch {dollars(prompt, batched=True)} and "
            f"{dollars(completion, batched=True)} ({source})"
        )

    def _named(self, model: str) -> KeptPrice | None:
        return self._own.get(model) or self._own.get(model.partition("@http")[0])


def _kept(journal: Path) -> dict[str, KeptPrice]:
    path = journal / KEPT
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, KeptPrice])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise DataError(
            f"{path}: no prices: {error}. Delete it, and name your file once more with --prices."
        ) from error


def bundled_source() -> str:
    """Return the name, version and date of the bundled list.

    The list has no date of its own: what is told is the newest day on which it knows a price to have
    changed.
    """
    today = datetime.now(UTC).date()
    known = [day for day in _change_dates() if day <= today]
    newest = f", newest change {max(known)}" if known else ""
    return f"genai-prices {importlib.metadata.version('genai-prices')}{newest}"


def _snapshot() -> Any:
    try:
        from genai_prices.data_snapshot import get_snapshot
    except ModuleNotFoundError as error:
        raise MissingExtraError("genai-prices", "teacher") from error
    return get_snapshot()


def _change_dates() -> list[date]:
    return [
        entry.constraint.start_date
        for provider in _snapshot().providers
        for model in provider.models
        if isinstance(model.prices, list)
        for entry in model.prices
        if hasattr(entry.constraint, "start_date")
    ]


def _bundled(model: str) -> tuple[Any, Any] | None:
    """Return the list's provider and model, or None. A URL decides over the provider's name."""
    endpoint = Endpoint.parse(model)
    by = (None, endpoint.url) if endpoint.url else (endpoint.provider, None)
    try:
        provider, info = _snapshot().find_provider_model(endpoint.model, None, *by)
    except LookupError:
        return None
    return provider, info
