"""Redaction: nothing secret is kept, and what was asked with the real value is still found."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.safety.redact import (
    KEY_VARIABLE,
    NOTE,
    Redactor,
    key_path,
    make_key,
    new_key,
    read_key,
    redact_file,
    redact_into,
    redactor_of,
)
from cacherl.cache.safety.scan import scan_store
from cacherl.cache.safety.sensitive import (
    PLACEHOLDER,
    Found,
    Profile,
    Sweep,
    _shapes,
    is_iban,
    luhn,
)
from cacherl.cache.storage.entry import Observation
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.cache.storage.store import MemoryStore
from cacherl.core.errors import CacheError
from cacherl.core.tasks import Split
from cacherl.core.tools import Effects, Source, Tier, ToolSpec
from tests.cache.recordings import GET, SPACE, call, result, task, trajectory

KEY = bytes(range(32))
PERSONAL = Profile(name="personal")
TAU = Path(__file__).parents[3] / "shared" / "data" / "tau-bench" / "gpt-4o-airline.json"

# Put together here, so that no scanner of repositories takes this file for a leak.
TOKENS = {
    "aws_key": "AKIA" + "IOSFODNN7EXAMPLE",
    "github_token": "ghp_" + "a1B2" * 9,
    "gitlab_token": "glpat-" + "x1y2" * 5,
    "openai_key": "sk-proj-" + "Ab1-" * 12,
    "anthropic_key": "sk-ant-" + "api03-" + "Zz9_" * 10,
    "google_key": "AIza" + "Sy0-_" * 7,
    "huggingface_token": "hf_" + "AbCd1234" * 4,
    "stripe_key": "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc" + "00",
    "slack_token": "xoxb-" + "123456789012-123456789012-" + "AbCdEf",
    "sendgrid_key": "SG." + "a1" * 11 + "." + "b2_" * 14 + "c",
    "twilio_key": "SK" + "0123456789abcdef" * 2,
    "npm_token": "npm_" + "aB3" * 12,
    "pypi_token": "pypi-AgEIcHlwaS5vcmc" + "aB_3" * 20,
    "discord_token": "M" + "a1B2" * 6 + "." + "a1B2c3" + "." + "a1B" * 9,
    "telegram_token": "110201543:" + "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsawX"[:35],
    "mailchimp_key": "0123456789abcdef" * 2 + "-us12",
    "square_key": "sq0csp-" + "a1-" * 14 + "b",
    "jwt": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxIn0." + "c2lnbmF0dXJlLXRoYXQtbXVzdC1nbw",
    "private_key": "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc/+=\n-----END RSA PRIVATE KEY-----",
}
PERSONAL_VALUES = {
    "email": "mia.li3818@example.com",
    "card": "4111 1111 1111 1111",
    "iban": "DE89 3704 0044 0532 0130 00",
    "phone": "+1 415-555-2671",
    "ip": "8.8.8.8",
    "national_id": "078-05-1120",
}
HARMLESS = (
    "123e4567-e89b-12d3-a456-426614174000",
    "d41d8cd98f00b204e9800998ecf8427e",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "#W2378156",
    "HAT001",
    "NO6JO3",
    "credit_card_4421486",
    "mia_li_3668",
    "2024-05-15T15:00:00+00:00",
    "1715786400000",
    "en-us",
    "10.0.0.1",
    "The password was changed; the new key to the office is with Ana.",
    "Is the token economy: 3 tokens, 2 secrets?",
    "3f786850e387550fdab836ed7e6dc881de23001b",
)


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(PERSONAL, KEY)


# ---- what is found


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize("around", ["{}", "use {} for it", "key={}&x=1", '["{}"]', "({})."])
def test_a_key_is_taken_out_whole_wherever_it_stands(
    kind: str, around: str, redactor: Redactor
) -> None:
    """Detectors tell that a key begins; what they leave behind of it is still a secret."""
    token = TOKENS[kind]
    text = around.replace("{}", json.dumps(token)[1:-1] if '"' in around else token)

    said = redactor.text(text)

    assert PLACEHOLDER.search(said)
    for piece in (token[len(token) // 2 :], token[-12:], token[-6:]):
        assert piece not in said


@pytest.mark.parametrize("kind", PERSONAL_VALUES)
def test_personal_data_goes_with_its_profile_only(kind: str, redactor: Redactor) -> None:
    """A tool that finds customers by e-mail needs the address; people publish without it."""
    text = f"seen: {PERSONAL_VALUES[kind]} today"

    assert redactor.text(text).startswith(f"seen: <{kind}:")
    assert redactor.text(text).endswith("> today")
    assert Redactor(Profile(), KEY).text(text) == text


@pytest.mark.parametrize("text", HARMLESS)
@pytest.mark.parametrize("profile", ["secrets", "personal"])
def test_ids_hashes_and_prose_stay(text: str, profile: Any) -> None:
    """A model must copy ids: one redacted id is a broken tool."""
    redactor = Redactor(Profile(name=profile), KEY)
    arguments = {"id": text, "note": text, "items": [text]}

    assert redactor.text(text) == text
    assert redactor.arguments(arguments) is arguments


@pytest.mark.parametrize(
    "name",
    ["password", "user_password", "passwordHash", "api_key", "apiKey", "X-API-Key", "API_KEY_2",
     "Authorization", "client_secret", "clientSecret", "accessToken", "refresh-token", "cvv",
     "db.passphrase", "secret", "new_password_confirmation", "private key", "contraseña", "pwd1"],
)  # fmt: skip
def test_a_name_makes_its_value_secret_whatever_it_looks_like(
    name: str, redactor: Redactor
) -> None:
    """`hunter2` has no shape."""
    said = redactor.arguments({name: "hunter2", "n": {name: 1234567, "ok": [{name: "x y"}]}})

    assert "hunter2" not in json.dumps(said)
    assert "1234567" not in json.dumps(said)
    assert "x y" not in json.dumps(said)
    # A text in ASCII may write the name with escapes.
    for ascii_only in (True, False):
        assert "hunter2" not in redactor.text(
            json.dumps({name: "hunter2"}, ensure_ascii=ascii_only)
        )


@pytest.mark.parametrize(
    "value",
    [
        {"password": None, "api_key": "", "secret": True, "passwords": 3},
        {"next_page_token": "abcdef1234567890abcd", "total_tokens": 512, "token": "the"},
        {"password": {"type": "string", "description": "Your password, 8 characters."}},
        {"password_length": 12, "secretary": "Ana", "keyboard": "azerty", "passengers": ["Ana"]},
        {"password": "********", "pin_code": "75001", "author": "Ana", "passport_office": "Lyon"},
    ],
)
def test_what_only_sounds_secret_stays(value: dict[str, Any]) -> None:
    """Counts, schemas, page cursors and what is masked already say nothing."""
    redactor = Redactor(Profile(), KEY)

    assert redactor.arguments(value) is value
    assert redactor.text(json.dumps(value)) == json.dumps(value)


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("GET https://bob:s3cr3t@db.example.com/x failed", "s3cr3t"),
        ("curl -H 'Authorization: Bearer abcdef0123456789abcdef'", "abcdef0123456789abcdef"),
        ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("/callback?access_token=abcd1234&state=ok", "abcd1234"),
        ("login failed: {'user': 'bob', 'password': 'hunter2'}", "hunter2"),
        ('cut off {"password": "hunter2 and mo', "hunter2"),
        ('[1, 2] password="hunter2"', "hunter2"),
        (
            '{"log": "{\\"body\\": \\"{\\\\\\"api_key\\\\\\": \\\\\\"hunter2\\\\\\"}\\"}"}',
            "hunter2",
        ),
        ('{"p\\u0061ssword": "hunter2"}', "hunter2"),
        ('{"mail": "mia\\u0040example.com"}', "mia"),
        ('{"mia@example.com": 1}', "mia@"),
        ('{"card": 4111111111111111}', "4111111111111111"),
        ('{"phone": "06 12 34 56 78"}', "12 34"),
    ],
)
def test_secrets_in_texts_of_any_form_go(text: str, gone: str, redactor: Redactor) -> None:
    """Results are JSON, JSON in JSON, logs, half a JSON and tracebacks."""
    assert gone not in redactor.text(text)


def test_json_stays_json_and_the_rest_of_it_stays_to_the_byte(redactor: Redactor) -> None:
    """Numbers, order, spaces and repeated keys are part of what a tool said."""
    text = '{ "b":1.0,  "password" : "x\\ty", "a":[1e5, 12345678901234567890, NaN],"b":2 }'

    said = redactor.text(text)

    before, after = text.split('"x\\ty"')
    assert said.startswith(before)
    assert said.endswith(after)
    assert PLACEHOLDER.fullmatch(json.loads(said)["password"])


def test_a_secret_in_the_arguments_is_not_echoed_by_the_result(redactor: Redactor) -> None:
    """Tools like to repeat what they were asked, in prose."""
    said = redactor.text("No user with hunter2-xyz", echoing={"password": "hunter2-xyz"})
    kept = redactor.arguments({"password": "hunter2-xyz"})["password"]

    assert said == f"No user with {kept}"


def test_a_secret_default_is_not_filled_back_in(redactor: Redactor) -> None:
    """Normalisation fills in defaults after the arguments were redacted."""
    token = TOKENS["github_token"]
    spec = ToolSpec(
        name="t",
        description=f"Uses {token}",
        parameters={
            "type": "object",
            "properties": {"password": {"type": "string", "default": "hunter2"}},
        },
    )

    said = msgspec.json.encode(redactor.spec(spec)).decode()

    assert token not in said
    assert "hunter2" not in said
    assert '"type":"string"' in said
    clean = ToolSpec(name="t", description="d", parameters={"type": "object"})
    assert redactor.spec(clean) is clean


def test_fields_of_ones_own_are_taken_out() -> None:
    """Names of people have no shape, but they have fields."""
    redactor = Redactor(Profile(fields=("first_name", "prénom")), KEY)

    said = redactor.text('{"first_name": "Mia", "pr\\u00e9nom": "Zo\\u00e9", "city": "Lyon"}')

    assert "Mia" not in said
    assert "Zo" not in said
    assert "Lyon" in said


def test_every_pattern_of_the_library_is_in_use() -> None:
    """A new version of detect-secrets with more patterns must not be passed over in silence."""
    from detect_secrets.plugins import github_token, gitlab_token, pypi_token, slack, twilio

    used = {shape.pattern.pattern for shape in _shapes()}
    for plugin in (
        github_token.GitHubTokenDetector,
        gitlab_token.GitLabTokenDetector,
        pypi_token.PypiTokenDetector,
        slack.SlackDetector,
        twilio.TwilioKeyDetector,
    ):
        assert {pattern.pattern for pattern in plugin.denylist} <= used


def test_check_digits_are_checked() -> None:
    """A check digit is what tells a card from an order id."""
    assert luhn("4111111111111111")
    assert not luhn("4111111111111112")
    assert is_iban("GB82WEST12345698765432")
    assert not is_iban("GB82WEST12345698765433")


# ---- properties

_SECRETS = st.sampled_from([*TOKENS.values(), *PERSONAL_VALUES.values(), "hunter2", "", "plain"])
_NAMES = st.sampled_from(
    ["password", "apiKey", "token", "phone", "email", "id", "order_id", "note", "dob", "é", "enum"]
)
_GLUE = st.sampled_from(["", " ", ",", '"', "'", "\\", "=", ":", "password=", "a1", "\n", "{", "é"])
_TEXTS = st.lists(st.one_of(_SECRETS, _GLUE, st.text(max_size=4)), max_size=6).map("".join)
_LEAVES = st.one_of(
    _TEXTS, st.integers(), st.booleans(), st.none(), st.just(4111111111111111), st.floats(-9, 9)
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(_NAMES, _TEXTS), inner, max_size=3),
        inner.map(json.dumps),
    ),
    max_leaves=8,
)


def _reading(profile: Profile, *, blind: bool = False) -> tuple[Sweep, list[Found]]:
    found: list[Found] = []

    def replace(what: Found) -> str:
        found.append(what)
        return Redactor(profile, KEY)._placeholder(what)

    class Suspecting(Sweep):
        def suspicious(self, text: str) -> bool:
            return True

    return (Suspecting if blind else Sweep)(profile, replace), found


@given(_TEXTS)
@example('"password": "hunter2"')
@example("<secret:0123456789ab>")
@example("password=<secret:0123456789ab>x1")
def test_redacting_a_text_again_changes_nothing(text: str) -> None:
    """A recording may pass through several redactions, and a query holds placeholders."""
    redactor = Redactor(PERSONAL, KEY)

    once = redactor.text(text)

    assert redactor.text(once) == once


@given(st.dictionaries(st.one_of(_NAMES, _TEXTS), _VALUES, max_size=4))
@example({"password": 0.0, "token": '{"password": 0}', "cvv": 1e21})
@example({"password": 1 << 70})
def test_arguments_and_their_json_are_redacted_alike_and_once(arguments: dict[str, Any]) -> None:
    """The query is a value, the recording may be text: both must come to the same."""
    redactor = Redactor(PERSONAL, KEY)

    said = redactor.arguments(arguments)

    assert redactor.arguments(said) == said
    assert json.loads(redactor.text(json.dumps(arguments))) == said


@given(_VALUES)
def test_the_cheap_reading_misses_nothing(value: Any) -> None:
    """Clean texts are recognised without looking closely; that must never cost a secret."""
    text = json.dumps(value)
    quick, _ = _reading(PERSONAL)
    thorough, found = _reading(PERSONAL, blind=True)

    closely = thorough.text(text)

    assert quick.text(text) == closely or not found
    if found:
        assert quick.suspicious(text)


@given(_VALUES)
def test_nothing_that_was_found_is_left(value: Any) -> None:
    """What redaction leaves behind, a scan with the same profile must not find."""
    said = Redactor(PERSONAL, KEY).text(json.dumps(value))
    scan, found = _reading(PERSONAL, blind=True)

    scan.text(said)

    assert found == []


@given(st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=20, unique=True))
def test_distinct_values_stay_distinct_and_equal_ones_equal(values: list[str]) -> None:
    """A placeholder has to work as an id: two customers must not become one."""
    redactor = Redactor(Profile(), KEY)
    kept = [v for v in values if v.strip("*•xX.#-_ \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0")]

    said = [redactor.arguments({"password": value})["password"] for value in kept]

    assert len(set(said)) == len(set(kept))
    assert said == [redactor.arguments({"password": value})["password"] for value in kept]


def test_one_secret_has_one_placeholder_wherever_it_stands(redactor: Redactor) -> None:
    """A token that a result shows in prose and a call hands on by name must meet."""
    token = TOKENS["github_token"]
    by_name = redactor.arguments({"api_key": token})["api_key"]

    assert redactor.text(f"your token is {token}") == f"your token is {by_name}"


def test_placeholders_depend_on_the_key_alone() -> None:
    """Every process and every hash seed must come to the same, and no other key may."""
    script = (
        "from cacherl.cache.safety.redact import Profile, Redactor;"
        "print(Redactor(Profile(name='personal'), bytes(range(32))).text("
        "'mia@example.com password=hunter22'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    text = "mia@example.com password=hunter22"
    assert done.stdout.strip() == Redactor(PERSONAL, KEY).text(text)
    assert done.stdout.strip() != Redactor(PERSONAL, KEY[::-1]).text(text)


@pytest.mark.parametrize(
    "text",
    [
        "password=" + "a" * 1_000_000,
        "@" + "a" * 1_000_000,
        "eyJ" * 200_000,
        '{"password": "' + "\\u0061" * 300_000 + '"}',
        "1 " * 500_000 + "+1",
        "aws" * 300_000 + "://a:b" * 50_000,
        "[" * 300_000,
        '{"password": ' + "1" * 9_000 + "}",
    ],
    ids=["name", "mail", "jwt", "escapes", "digits", "marks", "depth", "number"],
)
def test_long_texts_take_linear_time(text: str, redactor: Redactor) -> None:
    """A 50 MB result must not stop a recorder; quadratic patterns would take hours here."""
    redactor.text(text)


# ---- in a cache

LOGIN = ToolSpec(
    name="login",
    description="",
    parameters={
        "type": "object",
        "properties": {"user": {"type": "string"}, "password": {"type": "string"}},
        "required": ["user", "password"],
    },
    effects=Effects(),
)
SECRET = "correct horse battery 7"


def _record(cache: ToolCache, password: str = SECRET, text: str | None = None) -> None:
    asked = call(LOGIN, user="bob", password=password)
    said = json.dumps({"ok": True, "session_token": TOKENS["jwt"], "password": password})
    assert cache.record(
        SPACE, LOGIN, asked, result(asked, text or said), scenario="s", split=Split.TRAIN
    )


def test_no_byte_of_the_file_holds_a_secret_and_the_real_query_still_hits(tmp_path: Path) -> None:
    """The promise of redaction, with the write-ahead log still open."""
    path = tmp_path / "c.sqlite"
    store = SqliteStore(path, mode="write")
    redactor = redactor_of(store, str(path), path=path, profile=Profile())
    with ToolCache(store, name=str(path), redactor=redactor) as cache:
        _record(cache)
        files = [each.read_bytes() for each in tmp_path.iterdir() if "key" not in each.name]
        hit = cache.lookup(SPACE, LOGIN, {"user": "bob", "password": SECRET})
        other = cache.lookup(SPACE, LOGIN, {"user": "bob", "password": "wrong"})

    assert len(files) >= 2
    for data in files:
        assert SECRET.encode() not in data
        assert TOKENS["jwt"][-20:].encode() not in data
    assert hit.tier is Tier.EXACT
    assert other.tier is not Tier.EXACT
    assert hit.observation is not None
    assert json.loads(hit.observation.text)["ok"] is True
    # What the model saw in a result, it may hand on.
    seen = json.loads(hit.observation.text)["password"]
    with ToolCache(SqliteStore(path), redactor=redactor) as again:
        assert again.lookup(SPACE, LOGIN, {"user": "bob", "password": seen}).tier is Tier.EXACT


def test_a_redacted_cache_asks_for_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the key every query would miss in silence, and new secrets would be written."""
    path = tmp_path / "c.sqlite"
    with ToolCache.open(path, mode="write") as cache:
        assert redactor_of(cache.store, "c", path=path) is None
        made = redactor_of(cache.store, "c", path=path, profile=Profile())
        assert made is not None
        again = redactor_of(cache.store, "c", path=path)
        assert again is not None
        assert again.fingerprint == made.fingerprint
        with pytest.raises(CacheError, match="profile secrets, not personal"):
            redactor_of(cache.store, "c", path=path, profile=PERSONAL)

        key_path(path).unlink()
        with pytest.raises(CacheError, match="cacherl cache redact c NEW"):
            redactor_of(cache.store, "c", path=path)
        monkeypatch.setenv(KEY_VARIABLE, new_key().hex())
        with pytest.raises(CacheError, match=made.fingerprint):
            redactor_of(cache.store, "c", path=path)


def test_redaction_does_not_begin_on_recordings_that_have_none(tmp_path: Path) -> None:
    """Half a redacted cache is not redacted."""
    path = tmp_path / "c.sqlite"
    with ToolCache.open(path, mode="write") as cache:
        _record(cache)
        with pytest.raises(CacheError, match="cacherl cache redact c NEW"):
            redactor_of(cache.store, "c", path=path, profile=Profile())
        assert not key_path(path).exists()


def test_other_rules_ask_for_a_new_copy(tmp_path: Path) -> None:
    """A version that finds more would ask for what older recordings were not kept under."""
    store = MemoryStore()
    note = Redactor(Profile(), KEY).note
    store.put_note(NOTE, msgspec.json.encode(msgspec.structs.replace(note, rules=note.rules + 1)))

    with pytest.raises(CacheError, match="rules"):
        redactor_of(store, "c", path=None, key=KEY)


def test_the_key_is_its_owners_alone(tmp_path: Path) -> None:
    """Whoever has the key can test guesses."""
    path = tmp_path / "c.sqlite"
    key = make_key(path)
    file = key_path(path)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert make_key(path) == key
    file.chmod(0o644)
    with pytest.raises(CacheError, match="chmod 600"):
        read_key(path)
    file.chmod(0o600)
    file.write_text("not hex\n")
    with pytest.raises(CacheError, match="hex digits"):
        read_key(path)


def test_processes_that_make_a_key_at_once_share_it(tmp_path: Path) -> None:
    """Eight recorders start on one new cache."""
    script = (
        "import sys, pathlib; from cacherl.cache.safety.redact import make_key;"
        "print(make_key(pathlib.Path(sys.argv[1])).hex())"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "c.sqlite")], stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    said = {process.communicate()[0] for process in started}

    assert len(said) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["c.sqlite.redaction-key"]


# ---- a redacted copy


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[ToolCache]:
    with ToolCache.open(tmp_path / "plain.sqlite", mode="write") as cache:
        _record(cache)
        _record(cache, "other secret 9")
        cache.store.put_note("calibration", b"{}")
        yield cache


def test_a_redacted_copy_answers_the_same_calls(plain: ToolCache, tmp_path: Path) -> None:
    """What was recorded without redaction can still be published."""
    out = tmp_path / "out.sqlite"

    found = redact_file(plain.store, out, Profile())

    assert (found.calls, found.changed, found.merged) == (2, 2, 0)
    assert found.dropped_notes == ("calibration",)
    data = out.read_bytes()
    assert SECRET.encode() not in data
    assert b"other secret" not in data
    with ToolCache.open(out) as cache:
        redactor = redactor_of(cache.store, str(out), path=out)
    with ToolCache(SqliteStore(out), redactor=redactor) as cache:
        assert cache.lookup(SPACE, LOGIN, {"user": "bob", "password": SECRET}).tier is Tier.EXACT
    with pytest.raises(CacheError, match="exists already"):
        redact_file(plain.store, out, Profile())


def test_a_copy_of_a_redacted_cache_keeps_its_key_or_says_what_is_lost(
    plain: ToolCache, tmp_path: Path
) -> None:
    """A lost key loses the way to what it hid, not the rest."""
    first, second, third = (tmp_path / name for name in ("1.sqlite", "2.sqlite", "3.sqlite"))
    redact_file(plain.store, first, Profile())
    with ToolCache.open(first) as cache:
        same = redact_file(cache.store, second, Profile(), source_file=first)
        key_path(first).unlink()
        lost = redact_file(cache.store, third, Profile(), source_file=first)

    assert (same.changed, same.old_placeholders) == (0, 0)
    assert read_key(second) is not None
    assert lost.old_placeholders == 2


def test_states_that_were_hashed_from_secrets_are_replaced() -> None:
    """A hash without a key of a phone number can be guessed back in minutes."""
    write = ToolSpec(
        name="set_password",
        description="",
        parameters={"type": "object"},
        effects=Effects(writes=("user:{user}",)),
    )
    source, target = ToolCache(MemoryStore()), MemoryStore()
    first = call(write, user="bob", password=SECRET)
    source.record(SPACE, write, first, result(first, "done"), scenario="s", split=Split.TRAIN)
    _state = bytes(16)
    second = call(LOGIN, user="bob", password="x")
    source.record(
        SPACE,
        LOGIN,
        second,
        result(second, "in"),
        state_key=_state,
        scenario="s",
        split=Split.TRAIN,
    )

    found = redact_into(source.store, target, Redactor(Profile(), KEY))

    assert found.unreachable == 1
    assert _state not in [entry.call.state for entry in target.entries()]


def test_calls_that_become_one_keep_all_their_answers() -> None:
    """Two spellings of a secret never merge, two recordings of a placeholder do."""
    source, target = ToolCache(MemoryStore()), MemoryStore()
    redactor = Redactor(Profile(), KEY)
    _record(source, SECRET, "a")
    _record(source, redactor.arguments({"password": SECRET})["password"], "b")

    found = redact_into(source.store, target, redactor)

    assert (found.calls, found.merged) == (1, 1)
    (entry,) = target.entries()
    assert {kept.observation.text for kept in entry.kept} == {"a", "b"}


# ---- real data


@pytest.mark.skipif(not TAU.exists(), reason="needs ../shared/data/tau-bench")
def test_real_results_without_secrets_are_left_alone() -> None:
    """Real ids, payment methods and reservation codes: not one may change."""
    redactor = Redactor(Profile(), KEY)
    rollouts = json.loads(TAU.read_bytes())
    texts = [m["content"] for r in rollouts for m in r["traj"] if m["role"] == "tool"]

    assert len(texts) == 1164
    assert [text for text in texts if redactor.text(text) != text] == []


def test_an_observation_without_secrets_is_the_same_object() -> None:
    """Copying every result would cost a recorder its speed."""
    text = json.dumps({"order": "#W1", "items": [{"id": "a1", "price": 3.5}] * 20})

    assert Redactor(PERSONAL, KEY).text(text) is text
    seen = Observation(text=text, source=Source.LIVE, scenario="s", split=Split.TRAIN)
    assert seen.text is text


def test_what_names_a_scenario_or_a_state_is_redacted_everywhere(tmp_path: Path) -> None:
    """Names hold addresses. Who excludes a scenario by its real name must not be answered from it."""
    path, scenario = tmp_path / "c.sqlite", "case of eve@example.org"
    asked = call(GET, order_id="A")
    states = ["balance of eve@example.org", "letter to dan@example.org"]
    with ToolCache.open(path, mode="write", redact=PERSONAL) as cache:
        cache.record_trajectory(
            task(scenario), trajectory((asked, result(asked, "hers"))), fingerprints=states
        )
        files = [each.read_bytes() for each in tmp_path.iterdir() if "key" not in each.name]
        found = asyncio.run(cache.episode(task(scenario)).call("get_order", {"order_id": "A"}))
        told = cache.episode(task(scenario), fingerprint=lambda: states[0])
        hidden = cache.episode(
            task("another"),
            fingerprint=lambda: states[0],
            exclude_scenarios=frozenset({scenario}),
        )

        assert (found.tier, found.text) == (Tier.EXACT, "hers")
        assert told.lookup("get_order", {"order_id": "A"}).tier is Tier.EXACT
        assert hidden.lookup("get_order", {"order_id": "A"}).tier is Tier.MISS
        assert scan_store(cache.store, "c", profile=PERSONAL).findings == ()
    assert not any(b"@example.org" in data for data in files)


def test_states_that_were_told_are_redacted_in_a_copy(redactor: Redactor) -> None:
    """An environment's word for its state may hold what its results hold."""
    source, target = ToolCache(MemoryStore()), MemoryStore()
    asked = call(GET, order_id="A")
    states = ["", "letter to dan@example.org"]
    source.record_trajectory(task(), trajectory((asked, result(asked, "x"))), fingerprints=states)
    assert scan_store(source.store, "c", profile=PERSONAL).findings
    redact_into(source.store, target, redactor)

    assert scan_store(target, "c", profile=PERSONAL).findings == ()
