"""How a paid model is asked, and how much it may cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cacherl.core.errors import RecipeError
from cacherl.core.records import JsonObject, Record


class TeacherOptions(Record, frozen=True, kw_only=True):
    """Everything about a paid model but its name."""

    temperature: float | None = None
    """None leaves it to the endpoint."""
    send_seed: bool = True
    """False for endpoints that refuse a `seed`. Providers known to have none are never sent one."""
    extra: JsonObject = {}
    """Further fields of each request, such as `{"reasoning_effort": "low"}` or `{"top_k": 20}`."""
    api_key_env: str | None = None
    """The environment variable that holds the key; None: the provider's own (`OPENAI_API_KEY`, ...)."""
    timeout_s: float = 180.0
    """Seconds for one attempt, whole."""
    retries: int = 5
    """Attempts after the first, for failures that may pass."""
    requests_per_minute: float | None = None
    tokens_per_minute: int | None = None
    budget_dollars: float | None = None
    """Over the whole history of the journal folder, not this run alone."""
    budget_tokens: int | None = None
    """Prompt and completion together, over the whole history of the journal folder."""
    prices: Path | None = None
    """A TOML file of prices that win over the bundled ones (teacher/prices.py)."""
    batch: bool = False
    """Ask through the provider's batch endpoint: about half the price, and up to 24 hours."""
    batch_pause_s: float = 5.0
    """A batch is submitted once no new request has come for this long."""
    batch_size: int = 10_000
    """A batch is submitted at once when it holds this many requests."""
    batch_poll_s: float = 30.0
    """Seconds between two looks at a batch under way."""

    def __post_init__(self) -> None:
        for name in (
            "timeout_s",
            "requests_per_minute",
            "tokens_per_minute",
            "budget_dollars",
            "budget_tokens",
            "batch_size",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise RecipeError(f"{name} = {value}: it must be a number above 0, or left out.")
        for name in ("retries", "batch_pause_s", "batch_poll_s"):
            if getattr(self, name) < 0:
                raise RecipeError(f"{name} = {getattr(self, name)}: it cannot be below 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What `PROVIDER:MODEL` or `PROVIDER:MODEL@URL` names."""

    provider: str
    model: str
    url: str | None = None

    @property
    def name(self) -> str:
        """As it was written."""
        return f"{self.provider}:{self.model}" + (f"@{self.url}" if self.url else "")

    @classmethod
    def parse(cls, name: str) -> Endpoint:
        """Return what the name means.

        The URL is told from a model's own `@` (as in `claude-sonnet-4-5@20250929`) by its scheme.

        Raises:
            RecipeError: no provider or no model in it, or a password.
        """
        provider, colon, rest = name.partition(":")
        for scheme in ("@http://", "@https://"):
            model, at, address = rest.partition(scheme)
            if at:
                url: str | None = scheme[1:] + address.rstrip("/")
                break
        else:
            model, url = rest, None
        if not colon or not provider or not model or provider.lower() != provider:
            raise RecipeError(
                f"{name!r} names no model. Write PROVIDER:MODEL or PROVIDER:MODEL@URL, such as "
                "openai:gpt-5, anthropic:claude-sonnet-4-5, deepseek:deepseek-chat or "
                "openai:my-model@http://127.0.0.1:8000/v1."
            )
        if url is not None and "@" in urlsplit(url).netloc:
            raise RecipeError(
                f"the address of {provider}:{model} holds a user or a password, and the name of the model "
                "is written into everything it makes. Leave them out of the URL, and put the key into the "
                "provider's variable (OPENAI_API_KEY)."
            )
        return cls(provider=provider, model=model, url=url)
