"""What is a secret or personal data, in JSON values and in text.

Two signs count: the shape of a value (a key with a published prefix, an e-mail address, a card
number whose check digit agrees) and the name it stands under (`password`, `api_key`). Randomness
alone does not: order ids, hashes and UUIDs look like keys, and a tool's ids are what a model must
copy. Names and postal addresses of people have no shape: say their fields in `Profile.fields`.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from cacherl.cache.identity.canonical import canonical_json
from cacherl.core.errors import MissingExtraError
from cacherl.core.records import Record

RULES_VERSION = 1
"""What is found may only change together with this: old recordings and new queries must agree."""

PLACEHOLDER = re.compile(r"<[a-z][a-z0-9_]{1,31}:[0-9a-f]{12}>")
"""What stands where something was: its kind, and 48 bits that are equal for equal values."""

SECRET = "secret"  # noqa: S105 - the kind of a value that its name makes secret


class Profile(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What is taken out."""

    name: Literal["secrets", "personal"] = "secrets"
    """`personal` takes out secrets and personal data."""
    fields: tuple[str, ...] = ()
    """Names of further members whose values are always taken out, such as `first_name`."""


class Found(NamedTuple):
    """Something that must not be kept."""

    kind: str
    value: str
    path: str
    """Where it stands, such as `user.tokens[0]`; empty for the text itself."""


Replace = Callable[[Found], str]
"""Says what stands in the place of something found; always a placeholder."""


# ---- shapes of secrets -----------------------------------------------------------------------


class _Shape(NamedTuple):
    kind: str
    mark: str
    """A literal without which the pattern cannot match: what keeps clean text cheap."""
    pattern: re.Pattern[str]
    group: int = 0
    """The part that is secret."""
    tail: re.Pattern[str] | None = None
    """How a match goes on. Detectors end where they are sure, keys end later."""
    holds: Callable[[str], bool] | None = None


_GITLAB = ("gl", "GR1348941", "glcbt-", "glimt-", "glptt-", "glagent-", "gloas-")
_WORD_TAIL = re.compile(r"[A-Za-z0-9_-]*")
# The library's own pattern is quadratic in a long run of base64; its check of the parts is kept.
_JWT = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_JWT_TAIL = re.compile(r"[A-Za-z0-9_=.-]*(?<![.])")

# Formats that were published after detect-secrets 1.5.0 (May 2024), or that it does not know.
_NEWER: tuple[tuple[str, str, str], ...] = (
    ("github_token", "github_pat_", r"github_pat_[A-Za-z0-9_]{22,}"),
    ("anthropic_key", "sk-ant-", r"sk-ant-[A-Za-z0-9_-]{20,}"),
    ("openai_key", "sk-", r"sk-(?:(?:proj|svcacct|admin|or-v1|live|test|lf|litellm)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{32,})"),
    ("google_key", "AIza", r"AIza[0-9A-Za-z_-]{35}"),
    ("google_key", "GOCSPX-", r"GOCSPX-[0-9A-Za-z_-]{20,}"),
    ("google_token", "ya29.", r"ya29\.[0-9A-Za-z_-]{20,}"),
    ("huggingface_token", "hf_", r"hf_[A-Za-z0-9]{30,}"),
    ("stripe_key", "k_", r"(?:sk|rk)_(?:live|test)_[0-9a-zA-Z]{16,}"),
    ("stripe_key", "whsec_", r"whsec_[0-9a-zA-Z]{24,}"),
    ("slack_token", "xapp-", r"xapp-\d-[A-Za-z0-9-]{20,}"),
    ("slack_token", "xox", r"xox[abeprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,}"),
    ("npm_token", "npm_", r"npm_[A-Za-z0-9]{36}"),
    ("age_key", "AGE-SECRET-KEY-1", r"AGE-SECRET-KEY-1[0-9A-Z]{58}"),
    ("databricks_token", "dapi", r"dapi[0-9a-f]{32}"),
    ("shopify_token", "shp", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    ("digitalocean_token", "do", r"do[opr]_v1_[0-9a-f]{64}"),
)  # fmt: skip
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r".*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
_PUTTY_KEY = re.compile(r"PuTTY-User-Key-File-\d.*?(?:Private-MAC: ?\w+|\Z)", re.DOTALL)
_BEARER = re.compile(r"[Bb]earer\s{1,3}([A-Za-z0-9._~+/=-]{16,512})")
_BASIC = re.compile(
    r"[Aa]uthorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?[Bb]asic\s{1,3}([\w+/=-]{4,512})"
)

# Left out of detect-secrets: randomness and public IPs (ids and versions look like them), keywords
# (names are told here, for JSON), Artifactory (its pattern takes APARTMENTBUILDING for a password),
# what is an assignment (the names cover it) and OpenAI's (quadratic; `_NEWER` has its prefixes).


@functools.cache
def _shapes() -> tuple[_Shape, ...]:
    try:
        from detect_secrets.plugins import (
            aws,
            azure_storage_key,
            basic_auth,
            discord,
            github_token,
            gitlab_token,
            jwt,
            mailchimp,
            pypi_token,
            sendgrid,
            slack,
            square_oauth,
            stripe,
            telegram_token,
            twilio,
        )
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "detect-secrets", "redact") from error
    jwts = jwt.JwtTokenDetector
    azure = azure_storage_key.AzureStorageKeyDetector
    plugins: tuple[tuple[str, Any, tuple[str, ...], int], ...] = (
        ("aws_key", aws.AWSKeyDetector, ("A",), 0),
        ("azure_key", azure, ("AccountKey=",), 0),
        ("url_password", basic_auth.BasicAuthDetector, ("://",), 1),
        ("discord_token", discord.DiscordBotTokenDetector, (".",), 0),
        ("github_token", github_token.GitHubTokenDetector, ("gh",), 0),
        ("gitlab_token", gitlab_token.GitLabTokenDetector, _GITLAB, 0),
        ("mailchimp_key", mailchimp.MailchimpDetector, ("-us",), 0),
        ("pypi_token", pypi_token.PypiTokenDetector, ("pypi-AgE",) * 2, 0),
        ("sendgrid_key", sendgrid.SendGridDetector, ("SG.",), 0),
        ("slack_token", slack.SlackDetector, ("-", "hooks.slack"), 0),
        ("square_key", square_oauth.SquareOAuthDetector, ("sq0csp-",), 0),
        ("stripe_key", stripe.StripeDetector, ("k_live_",), 0),
        ("telegram_token", telegram_token.TelegramBotTokenDetector, (":",), 0),
        ("twilio_key", twilio.TwilioKeyDetector, ("AC", "SK"), 0),
    )
    shapes = [
        _Shape("private_key", "PRIVATE KEY", _PRIVATE_KEY),
        _Shape("private_key", "PuTTY-User-Key-File", _PUTTY_KEY),
        _Shape("jwt", "eyJ", _JWT, 0, _JWT_TAIL, jwts.is_formally_valid),
        _Shape("bearer_token", "earer", _BEARER, 1, holds=_looks_random),
        _Shape("url_password", "asic", _BASIC, 1),
    ]
    for kind, mark, pattern in _NEWER:
        shapes.append(_Shape(kind, mark, re.compile(pattern), 0, _WORD_TAIL))
    for kind, plugin, marks, group in plugins:
        for mark, pattern in zip(marks, plugin.denylist, strict=False):
            tail = None if group else _WORD_TAIL
            shapes.append(_Shape(kind, mark, pattern, group, tail))
    return tuple(shapes)


# What must be near the mark too, where a mark is common or its pattern slow. Same reading, cheaper.
_NARROWER = {
    "A": re.compile(r"(?:A3T|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16}"),
    ".": re.compile(r"\.[\w-]{6}\.[\w-]{27}"),
    ":": re.compile(r":[\w-]{35}"),
    "-us": re.compile(r"-us\d"),
    "://": re.compile(r"://[^\s/?#@\[\]]{1,512}@"),
    "-": re.compile(r"xox[abposr]-", re.IGNORECASE),
}


def _looks_random(text: str) -> bool:
    """Say whether a piece of the text could be a key: 16 characters with letters and digits."""
    return any(
        len(piece) >= 16 and any(c.isdigit() for c in piece) and any(c.isalpha() for c in piece)
        for piece in re.split(r"[\s;,]", text)
    )


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# ---- names -----------------------------------------------------------------------------------


class Rule(NamedTuple):
    """What a name says of the value under it."""

    kind: str
    holds: Callable[[str], bool] | None = None
    """Which values; None for every one."""
    many: bool = False
    """A plural: members of an object under it inherit the rule whole."""


_BREAK = re.compile(r"[_\-.\s/:]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_TRAILING = _words(
    "hash hashed plain raw value confirmation confirm repeat again new old current header"
)
_SECRET_WORDS = _words(
    "password passwd passwort pwd passphrase passcode secret apikey accesskey secretkey privatekey"
    " authtoken accesstoken refreshtoken authorization cvv cvv2 cvc cvc2 contraseña contrasena"
    " motdepasse"
)
_SECRET_PAIRS = frozenset(
    (first, last)
    for last, firsts in {
        "key": "api access secret private auth signing encryption master session storage",
        "token": "access auth refresh api bearer session security id",
        "code": "security card",
        "cookie": "set",
        "header": "auth",
        "secret": "client",
        "phrase": "pass",
        "word": "pass",
        "passe": "de",
    }.items()
    for first in firsts.split()
)
_PLURALS = {f"{word}s": word for word in ("password", "secret", "token", "key", "credential")}
_PAGING = _words("page next prev previous cursor continuation sync start end")
_ALWAYS_VALUE = _words("default const example examples enum value values")
_MASKED = re.compile(r"[*•xX.#\-_\s]*\Z")


def _is_public_ip(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


_PERSONAL_WORDS = {
    "phone": "phone", "telephone": "phone", "tel": "phone", "mobile": "phone", "fax": "phone",
    "cellphone": "phone", "msisdn": "phone", "email": "email", "iban": "iban", "ssn": "national_id",
    "dob": "birth_date", "birthdate": "birth_date", "birthday": "birth_date", "passport": "passport",
}  # fmt: skip
_PERSONAL_PAIRS = {
    ("phone", "number"): "phone", ("mobile", "number"): "phone", ("fax", "number"): "phone",
    ("telephone", "number"): "phone", ("cell", "phone"): "phone", ("e", "mail"): "email",
    ("mail", "address"): "email", ("email", "address"): "email", ("security", "number"): "national_id",
    ("national", "id"): "national_id", ("passport", "number"): "passport", ("birth", "date"): "birth_date",
    ("of", "birth"): "birth_date", ("card", "number"): "card", ("account", "number"): "account",
    ("license", "number"): "license", ("licence", "number"): "license", ("ip", "address"): "ip",
}  # fmt: skip
_DIGITS = re.compile(r"\d")
_NEEDS = {
    "phone": lambda text: len(_DIGITS.findall(text)) >= 5,
    "email": lambda text: "@" in text,
    "ip": _is_public_ip,
}  # others: at least one digit


def rule_of(name: str, profile: Profile) -> Rule | None:
    """Return what a member's name says of its value, or None."""
    return _rule_of(name, profile.name == "personal", frozenset(profile.fields))


@functools.lru_cache(maxsize=16384)
def _rule_of(name: str, personal: bool, fields: frozenset[str]) -> Rule | None:
    if name in fields:
        return Rule("field", many=True)
    words = [word.lower() for word in _BREAK.split(name[:256]) if word]
    while len(words) > 1 and (words[-1] in _TRAILING or words[-1].isdigit()):
        words.pop()
    if not words:
        return None
    many = words[-1] in _PLURALS
    last = _PLURALS.get(words[-1], words[-1])
    bare = last.rstrip("0123456789") or last
    pair = (words[-2], last) if len(words) > 1 else ("", last)
    if last in _SECRET_WORDS or bare in _SECRET_WORDS or pair in _SECRET_PAIRS:
        return Rule(SECRET, many=many)
    if last in ("token", "cookie", "credential", "auth", "bearer") and not _PAGING & set(words):
        return Rule(SECRET, _looks_random, many=many)
    if not personal:
        return None
    kind = _PERSONAL_PAIRS.get(pair) or _PERSONAL_WORDS.get(last)
    if kind is None:
        return None
    return Rule(kind, _NEEDS.get(kind, lambda text: bool(_DIGITS.search(text))))


# A cheap reading of a whole text: without one of the marks, and then without the names, no member
# of it and no assignment in it has a rule. `tests/cache/test_redact.py` holds the three together.
_NAME_MARKS = (
    "pass", "pwd", "secret", "key", "token", "auth", "cvv", "cvc", "code", "cookie", "credential",
    "contrase", "bearer",
)  # fmt: skip
_NAMES = (
    "pass[S]?(?:word|wort|wd|phrase|code)|de[S]?passe|pwd|secret|token|cvv|cvc|authori|cookie"
    "|contrase|credential|bearer|auth[S]?header|(?:security|card)[S]?code"
    "|(?:api|access|secret|private|auth|signing|encryption|master|session|storage)[S]?key"
    "|auth(?![a-z])"
)
_PERSONAL_MARKS = (
    "phone", "tel", "mobile", "fax", "msisdn", "mail", "iban", "ssn", "dob", "birth", "passport",
    "number", "national", "ip",
)  # fmt: skip
_PERSONAL_NAMES = (
    "phone|telephone|tel(?![a-z])|mobile|fax|msisdn|mail|iban|ssn|dob|birth|passport|national[S]?id"
    "|(?:security|card|account|licen[sc]e)[S]?number|(?<![a-z])ip(?![b-z])"
)
_SEPARATORS = r"_\-.\s/:\\"
_NAME_THEN_VALUE = r"[\w\-./: \\]{0,60}[\\\"'\s]{0,64}[=:]"


@functools.lru_cache(maxsize=64)
def _named_value(
    fields: tuple[str, ...], personal: bool
) -> tuple[tuple[str, ...], re.Pattern[str]]:
    marks = (*_NAME_MARKS, *(_PERSONAL_MARKS if personal else ()), *(f.lower() for f in fields))
    names = _NAMES + ("|" + _PERSONAL_NAMES if personal else "")
    names = names.replace("[S]?", f"[{_SEPARATORS}]{{0,4}}")
    either = "|".join([names, *(re.escape(f.lower()) for f in fields)])
    return marks, re.compile(f"(?:{either}){_NAME_THEN_VALUE}")


# ---- shapes of personal data -----------------------------------------------------------------

_EMAIL = re.compile(r"(?<![\w.%+'-])[\w.%+'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w@])")
_CARD = re.compile(r"(?<![\w.+-])\d(?:[ -]?\d){13,18}(?![\w-]|\.\d)")
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])"
)
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}(?<!:)(?![\w:])")
_PHONE = re.compile(r"(?<![\w.+])\+\d[\d .()/-]{6,22}\d(?![\w])")
_PHONE_US = re.compile(r"(?<![\w.+-])(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])")
_SSN = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")

# ISO/IEC 7812 prefixes with their lengths: a check digit alone takes every tenth order id.
_ISSUERS = re.compile(
    r"4\d{15}(?:\d{3})?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
    r"|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}"
    r"|62\d{14,17}"
)


def _is_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return bool(_ISSUERS.fullmatch(digits)) and luhn(digits)


def luhn(digits: str) -> bool:
    """Say whether the last digit is the check digit of the others (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_iban(text: str) -> bool:
    """Say whether the check digits of an IBAN agree (ISO 13616)."""
    plain = text.replace(" ", "")
    if not 15 <= len(plain) <= 34 or not plain.isascii() or not plain.isalnum():
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _is_phone(text: str, region: str | None) -> bool:
    try:
        import phonenumbers
    except ModuleNotFoundError as error:
        raise MissingExtraError("phonenumbers", "redact") from error
    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(text, region)))
    except phonenumbers.NumberParseException:
        return False


def _personal_spans(text: str) -> Iterator[tuple[int, int, str]]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield match.start(), match.end(), "email"
    if _DIGITS.search(text) is None:
        return
    for match in _CARD.finditer(text):
        if _is_card(match.group()):
            yield match.start(), match.end(), "card"
    for match in _IBAN.finditer(text):
        # The pattern may have run on into a word in capitals.
        ends = [
            match.end(),
            *(
                match.start() + gap.start()
                for gap in reversed(list(re.finditer(" ", match.group())))
            ),
        ]
        for end in ends:
            if is_iban(text[match.start() : end]):
                yield match.start(), end, "iban"
                break
    if "." in text:
        for match in _IPV4.finditer(text):
            if _is_public_ip(match.group()):
                yield match.start(), match.end(), "ip"
    if "::" in text or text.count(":") >= 7:
        for match in _IPV6.finditer(text):
            if match.group().count(":") >= 2 and _is_public_ip(match.group()):
                yield match.start(), match.end(), "ip"
    if "+" in text:
        for match in _PHONE.finditer(text):
            if _is_phone(match.group(), None):
                yield match.start(), match.end(), "phone"
    for match in _PHONE_US.finditer(text):
        if _is_phone(match.group(), "US"):
            yield match.start(), match.end(), "phone"
    if "-" in text:
        for match in _SSN.finditer(text):
            yield match.start(), match.end(), "national_id"


_DIGITS_SIGN = re.compile(
    r"\d(?:(?:[ .\-()]{0,2}\d){9}|\d\d-\d\d-\d{4}|\d{0,2}\.\d{1,3}\.\d{1,3}\.\d)"
)
_IPV6_SIGN = re.compile(r"[0-9A-Fa-f]:(?:[0-9A-Fa-f]{1,4}:){6}")
_IBAN_SIGN = re.compile(r"[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2}")


def _may_be_personal(text: str) -> bool:
    return (
        "@" in text
        or "::" in text
        or _DIGITS_SIGN.search(text) is not None
        or _IBAN_SIGN.search(text) is not None
        or ("+" in text and _PHONE.search(text) is not None)
        or (text.count(":") >= 7 and _IPV6_SIGN.search(text) is not None)
    )


# ---- assignments in text ---------------------------------------------------------------------

_ASSIGNED = re.compile(
    r"(?<![\w.\-])([A-Za-z_][\w.\-]{1,60})(\\?[\"']?)\s{0,3}(=>|:=|={1,3}|:)\s{0,3}"
    r"(?:\\?\"((?:[^\"\\]|\\(?!\")[^\"]){1,4096})(?:\\?\"|\\?\Z)"
    r"|\\?'((?:[^'\\]|\\(?!').){1,4096})(?:\\?'|\\?\Z)"
    r"|([^\s\"'&;,<>(){}\[\]\\]{1,512}))"
)
_NO_VALUE = _words("null none true false undefined nil yes no required missing invalid empty")


def _assigned_spans(
    text: str, profile: Profile, *, only_quoted: bool
) -> Iterator[tuple[int, int, str]]:
    for match in _ASSIGNED.finditer(text):
        rule = rule_of(match.group(1), profile)
        if rule is None:
            continue
        if only_quoted and not match.group(2):
            continue
        group = 4 if match.group(4) else 5 if match.group(5) else 6
        value = match.group(group)
        if value.casefold() in _NO_VALUE or _MASKED.match(value) or value[0] in "$%{<":
            continue
        if rule.holds is not None and not rule.holds(value):
            continue
        if group == 6 and rule.kind == SECRET:
            # Prose says "password: the one you chose"; only `=` binds any word.
            odd = any(c.isdigit() for c in value) and len(value) >= 6
            if len(value) < 4 or not (odd or match.group(3) not in (":", "==")):
                continue
            if value.casefold() in ("bearer", "basic"):
                continue  # the scheme; what follows it has a shape of its own
        yield match.start(group), match.end(group), rule.kind


# ---- going over values -----------------------------------------------------------------------

_TOKEN = re.compile(
    r"\s*(?:(\"[^\"\\]*(?:\\.[^\"\\]*)*\")|([{}\[\],:])"
    r"|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(true|false|null|NaN|-?Infinity))",
    re.DOTALL,
)
_OPENING = re.compile(r"\s*[{\[\"]")
_HIDDEN = re.compile(r"\\u00[2-7]|\\/")  # an escape behind which a mark could hide
# Every tenth id has a right check digit, and 1.2.3.4 is a version too.
_IDENTITY = _words("id ids ref reference sku order tracking")
_VERSION = _words("v ver version build release firmware")


_MAX_CLEAN, _MAX_CLEAN_CHARACTERS = 1 << 15, 512


class _Frame(NamedTuple):
    is_object: bool
    rule: Rule | None
    path: str


class Sweep:
    """Goes over arguments and texts and replaces what must not be kept.

    What it returns depends on the profile, `replace` and the value alone. Going over a value again
    changes nothing, as long as `replace` returns placeholders.
    """

    def __init__(self, profile: Profile, replace: Replace) -> None:
        self.profile = profile
        self._replace = replace
        self._personal = profile.name == "personal"
        self._marks, self._named = _named_value(profile.fields, self._personal)
        self._shapes = _shapes()
        self._clean: set[str] = set()

    # ---- is there anything at all

    def suspicious(self, text: str) -> bool:
        """Say whether something may be found. Cheap; never False where something would be."""
        for shape in self._shapes:
            if shape.mark in text:
                narrower = _NARROWER.get(shape.mark, shape.pattern)
                if narrower.search(text) is not None:
                    return True
        folded = text.lower()
        for mark in self._marks:
            if mark in folded:
                if self._named.search(folded) is not None:
                    return True
                break
        if self._personal and _may_be_personal(text):
            return True
        return "\\" in text and _HIDDEN.search(text) is not None

    # ---- values

    def arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the value with everything found replaced; the same object where nothing was."""
        whole = arguments if isinstance(arguments, dict) else dict(arguments)
        try:
            said = msgspec.json.encode(whole).decode()
        except (UnicodeEncodeError, OverflowError, TypeError, msgspec.MsgspecError):
            pass
        else:
            if said in self._clean:
                return whole
            if not self.suspicious(said):
                # Rollouts ask the same again and again. Only what is clean is remembered.
                if len(said) <= _MAX_CLEAN_CHARACTERS:
                    if len(self._clean) >= _MAX_CLEAN:
                        self._clean.clear()
                    self._clean.add(said)
                return whole
        swept: dict[str, Any] = self.value(whole, "")
        return swept

    def value(self, value: Any, path: str, rule: Rule | None = None) -> Any:
        """Return a JSON value with everything found replaced; the same object where nothing was."""
        if isinstance(value, str):
            return self._string(value, rule, path)
        if isinstance(value, dict):
            return self._members(value, path, rule)
        if isinstance(value, list | tuple):
            items = [self.value(item, f"{path}[{place}]", rule) for place, item in enumerate(value)]
            same = all(new is old for new, old in zip(items, value, strict=True))
            return value if same else items
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int | float):
            said = canonical_json(value).decode()
            new = self._number(said, rule, path)
            return value if new is None else new
        return value

    def _members(self, value: dict[str, Any], path: str, rule: Rule | None) -> dict[str, Any]:
        out: dict[str, Any] = {}
        same = True
        for name, member in value.items():
            new_name = self._string(name, None, path)
            here = f"{path}.{new_name}" if path else new_name
            new = self.value(member, here, self._inner(new_name, rule))
            same = same and new is member and new_name == name
            out[new_name] = new
        return value if same else out

    def _inner(self, name: str, outer: Rule | None) -> Rule | None:
        """Return the rule of a member, given that of the object it is in."""
        own = rule_of(name, self.profile)
        if own is not None or outer is None:
            return own
        if outer.many or name in _ALWAYS_VALUE:
            return outer
        # What stands beside a secret (`scheme`, `expires`, a JSON Schema's `type`) is none.
        return Rule(outer.kind, _looks_random) if outer.kind == SECRET else None

    def _number(self, said: str, rule: Rule | None, path: str) -> str | None:
        if rule is not None:
            # `{"passwords": 3}` counts them.
            number = _canonical_number(said)
            if not rule.many and (rule.holds is None or rule.holds(number)):
                return self._replace(Found(rule.kind, number, path))
        if (
            self._personal
            and said.isdigit()
            and _is_card(said)
            and not _last_words(path) & _IDENTITY
        ):
            return self._replace(Found("card", said, path))
        return None

    def _string(self, text: str, rule: Rule | None, path: str) -> str:
        if rule is not None:
            if PLACEHOLDER.fullmatch(text) or _MASKED.match(text):
                return text
            # What a placeholder is made of must not count: it looks random.
            if rule.holds is None or rule.holds(PLACEHOLDER.sub("", text)):
                # One value has one kind, wherever it stands.
                shapes = list(self._secret_spans(text)) if rule.kind == SECRET else []
                whole = [kind for start, end, kind in shapes if (start, end) == (0, len(text))]
                return self._replace(Found(whole[0] if whole else rule.kind, text, path))
        return self.text(text, path)

    # ---- texts

    def text(self, text: str, path: str = "") -> str:
        """Return a text with everything found replaced. JSON keeps its form to the byte elsewhere."""
        if not text or not self.suspicious(text):
            return text
        # Once more until nothing is left: taking one thing out can bare the edge of another.
        while True:
            swept, whole = self._json(text, path)
            if swept == text or whole:
                return swept  # the strings of a JSON value were gone over to the end each
            text = swept

    def shapes(self, text: str) -> str:
        """Return a text that is no text, such as raw bytes, without the secrets that have a shape.

        Assignments count only where the name stands in quotes, as in JSON.
        """
        out: list[str] = []
        position = 0
        for start, end, kind in _apart(self._secret_spans(text, only_quoted=True)):
            out += (text[position:start], self._replace(Found(kind, text[start:end], "")))
            position = end
        return "".join([*out, text[position:]])

    def _json(self, text: str, path: str) -> tuple[str, bool]:
        """Return the text, read as JSON as far as it is, and whether all of it was."""
        if _OPENING.match(text) is None:
            return self._plain(text, path), False
        out: list[str] = []
        done = position = 0
        frames: list[_Frame] = []
        places: list[int] = []
        name: str | None = None  # without secrets, like the path that it becomes part of
        wants_name = False
        read = 0
        while (match := _TOKEN.match(text, position)) is not None:
            kind, position, read = match.lastindex, match.end(), read + 1
            frame = frames[-1] if frames else None
            if kind == 2:
                mark = match.group(2)
                if mark in "{[":
                    rule = self._rule_here(frame, name)
                    here = _place(frame, name, places, path)
                    frames.append(_Frame(mark == "{", rule, here))
                    places.append(0)
                    name, wants_name = None, mark == "{"
                elif mark in "}]":
                    if not frames:
                        position = match.start(2)
                        break
                    frames.pop()
                    places.pop()
                    name, wants_name = None, False
                elif mark == ",":
                    if places:
                        places[-1] += 1
                    name, wants_name = None, bool(frame and frame.is_object)
                continue
            if kind == 4:
                continue
            here = _place(frame, name, places, path)
            if kind == 3:
                new = self._number(match.group(3), self._rule_here(frame, name), here)
                if new is not None:
                    out += (text[done : match.start(3)], json.dumps(new))
                    done = position
                continue
            said = _unquoted(match.group(1))
            if wants_name:
                swept = self._string(said, None, here)
                name, wants_name = swept, False
            else:
                swept = self._string(said, self._rule_here(frame, name), here)
            if swept != said:
                quoted = json.dumps(swept, ensure_ascii=text.isascii())
                out += (text[done : match.start(1)], quoted)
                done = position
        if not read:
            return self._plain(text, path), False
        rest = text[position:]
        if rest and not rest.isspace():
            # Cut off, or prose that began like JSON: the rest is read as text.
            return "".join((*out, text[done:position], self._plain(rest, path))), False
        return "".join((*out, text[done:])), True

    def _rule_here(self, frame: _Frame | None, name: str | None) -> Rule | None:
        if frame is None:
            return None
        if not frame.is_object:
            return frame.rule
        return None if name is None else self._inner(name, frame.rule)

    def _plain(self, text: str, path: str) -> str:
        """Return a text that is no JSON, with everything found replaced; placeholders stay."""
        out: list[str] = []
        position = 0
        for known in (*PLACEHOLDER.finditer(text), None):
            end = len(text) if known is None else known.start()
            out.append(self._gap(text[position:end], path))
            if known is not None:
                out.append(known.group())
                position = known.end()
        return "".join(out)

    def _gap(self, text: str, path: str) -> str:
        spans = _apart(self._secret_spans(text))
        if self._personal:
            taken = list(spans)
            for start, end, kind in _apart(self._personal_spans(text, path)):
                if all(end <= first or last <= start for first, last, _ in taken):
                    spans.append((start, end, kind))
            spans.sort()
        out: list[str] = []
        position = 0
        for start, end, kind in spans:
            out += (text[position:start], self._replace(Found(kind, text[start:end], path)))
            position = end
        out.append(text[position:])
        return "".join(out)

    def _secret_spans(
        self, text: str, *, only_quoted: bool = False
    ) -> Iterator[tuple[int, int, str]]:
        for shape in self._shapes:
            if shape.mark not in text:
                continue
            narrower = _NARROWER.get(shape.mark)
            if narrower is not None and narrower.search(text) is None:
                continue
            for match in shape.pattern.finditer(text):
                start, end = match.span(shape.group)
                if start < 0 or (start and not shape.group and _joins(text, start)):
                    continue
                if shape.holds is not None and not shape.holds(match.group(shape.group)):
                    continue
                if shape.tail is not None:
                    tail = shape.tail.match(text, end)
                    end = end if tail is None else tail.end()
                if not _MASKED.match(text[start:end]):
                    yield start, end, shape.kind
        folded = text.lower()
        if any(mark in folded for mark in self._marks):
            yield from _assigned_spans(text, self.profile, only_quoted=only_quoted)

    def _personal_spans(self, text: str, path: str) -> Iterator[tuple[int, int, str]]:
        words = _last_words(path)
        for start, end, kind in _personal_spans(text):
            whole = start == 0 and end == len(text)
            if whole and kind == "card" and text.isdigit() and words & _IDENTITY:
                continue
            if whole and kind == "ip" and words & _VERSION:
                continue
            yield start, end, kind


def _canonical_number(said: str) -> str:
    try:
        return canonical_json(json.loads(said)).decode()
    except ValueError:
        return said  # more digits than Python reads


def _joins(text: str, start: int) -> bool:
    """Say whether a match starts inside a longer word: then it is a part of an id, not a key."""
    return text[start - 1].isalnum() and text[start].isalnum()


def _last_words(path: str) -> frozenset[str]:
    """Return the last word of the name that a path ends in, as a set of one or none."""
    name = path.rpartition(".")[2].split("[")[0]
    words = [word.lower() for word in _BREAK.split(name) if word]
    return frozenset(words[-1:])


def _place(frame: _Frame | None, name: str | None, places: Sequence[int], path: str) -> str:
    if frame is None:
        return path
    if not frame.is_object:
        return f"{frame.path}[{places[-1]}]"
    if name is None:
        return frame.path
    return f"{frame.path}.{name}" if frame.path else name


def _unquoted(literal: str) -> str:
    if "\\" not in literal:
        return literal[1:-1]
    try:
        value: str = json.loads(literal, strict=False)
    except ValueError:
        return literal[1:-1]  # no JSON after all: a stray backslash
    return value


def _apart(spans: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Return spans that do not overlap: the earliest, and of those the longest; overlaps become one."""
    found: list[tuple[int, int, str]] = []
    for start, end, kind in sorted(spans, key=lambda span: (span[0], -span[1])):
        if found and start < found[-1][1]:
            first, last, known = found[-1]
            found[-1] = (first, max(last, end), known)
        else:
            found.append((start, end, kind))
    return found
