"""Which different call may stand in for this one: pure functions over two calls' shapes.

Similarity of strings or embeddings is the wrong test: thresholds that keep harmless rewrites also
accept nearly every changed id, date, swap or negation (measured: 93-100 %). So FUZZY is a gate:
everything but free text must be equal, and the texts must say the same in other words: no content
word replaced, the same numbers, negations, quotations and names, in the same order where order
can matter. BEST_EFFORT only ranks.
"""

from __future__ import annotations

import functools
import re
from collections import Counter

import msgspec

from cacherl.cache.identity.normalise import Kind, Shape

FUZZY_MIN_SCORE = 0.8
"""Overlap of content words (Dice) below which texts do not say the same."""
BEST_EFFORT_MIN_SCORE = 0.3
"""Field overlap below which a call is no neighbour."""

KIND_WEIGHT: dict[Kind, float] = {
    Kind.ID: 4.0,
    Kind.CODE: 4.0,
    Kind.ENTITY: 3.0,
    Kind.DATE: 2.0,
    Kind.NUMBER: 1.5,
    Kind.ENUM: 1.0,
}
# Words are rarer than the values of an enum or a limit, and calls that share most of them mean the same
# more often than calls that share a city: at 0.5 the call that a changed one was made from is found
# in 37 % of cases, at 1.5 in all (1e6 calls, two of five fields changed). `make bench-cache` tells.
TEXT_TOKEN_WEIGHT = 1.5
MAX_TEXT_TOKENS = 8  # the longest: a long text must not drown the identities

# Words (hyphens and the like inside), a sign before a number, and every symbol that is not ordinary
# punctuation: emoji, currencies, operators, combining marks of scripts that Python's \w splits.
_TOKEN = re.compile(
    r"[^\W_]+(?:[-_.@/#:'’+&]+[^\W_]+)*|(?<!\w)[-+](?=\d)|[^\w\s.,;:!?'’\"“”«»()\-–—…`]"
)
_QUOTED = re.compile(r"\"([^\"]*)\"|“([^”]*)”|«\s*([^»]*?)\s*»|`([^`]*)`|(?<!\w)'([^']*)'(?!\w)")
_SENTENCE_END = re.compile(r"[.!?:;]\s*$")
# Without one of these signs a text holds neither a quotation nor a sign of code (`SQL` in capitals).
_ODD = re.compile(r"[\"“«`'{}\[\]\\;|=>&(<]|[A-Z]{4}")
_CODE_SIGNS = re.compile(
    r"[{}\[\]\\;|]|==|=>|->|&&|\w\(|</?\w+>|\b(?:SELECT|INSERT|UPDATE|DELETE|FROM|WHERE)\b"
)


def _lexicon(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words that ask and decorate but decide nothing. Direction, order, quantity and time words are
# deliberately absent: "on", "off", "from", "to", "before", "all", "open" change the answer.
_VACUOUS = _lexicon(
    "a an the of for about is are was be been am please kindly i me my we us our you your he she"
    " it its this that there can could would should may might will shall do does did have has had"
    " want need like know tell give show find get look search see check list display some also"
    " just so hi hello thanks thank regarding concerning"
    " le la les l un une des du d je j me m mon ma mes nous notre vous votre vos il elle ce cette"
    " cet ces est sont suis être veux voudrais peux pouvez puis ai avez a as s'il plaît svp merci"
    " bonjour que qu concernant donne donnez montre montrez trouve trouvez cherche cherchez"
)
_NEGATIONS = _lexicon(
    "no not never none nobody nothing neither nor without cannot cant wont except excluding"
    " excluded unless non lacking but instead ne n pas sans jamais aucun aucune rien sauf hormis"
    " excepté ni personne"
)
_NUMBER_WORDS = _lexicon(
    "zero one two three four five six seven eight nine ten eleven twelve dozen hundred thousand"
    " million billion half quarter double twice triple both first second third fourth fifth last"
    " next previous zéro deux trois quatre cinq sept huit neuf dix onze douze vingt trente cent"
    " mille premier première deuxième troisième dernier dernière prochain prochaine"
)
_CALENDAR = _lexicon(
    "monday tuesday wednesday thursday friday saturday sunday january february march april june"
    " july august september october november december today tomorrow yesterday tonight morning"
    " afternoon evening noon midnight week month year day hour minute lundi mardi mercredi jeudi"
    " vendredi samedi dimanche janvier février mars avril mai juin juillet août septembre octobre"
    " novembre décembre aujourd'hui demain hier matin soir midi minuit semaine mois an année jour"
    " heure"
)
_DIRECTIONS = _lexicon(
    "from to into onto before after until since than by between over under above below more less"
    " most least versus vs against then first last if when while because de à vers avant après"
    " depuis jusqu jusque entre sur sous plus moins par contre puis si quand"
)


_LOADED = _VACUOUS | _NEGATIONS | _NUMBER_WORDS | _CALENDAR | _DIRECTIONS


class TextProfile(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a text says, as far as matching cares."""

    stems: frozenset[str]
    """Content words, folded."""
    order: tuple[str, ...]
    """Content words in order of appearance."""
    guarded: tuple[str, ...]
    """Numbers, number and calendar words, symbols: sorted, with repeats."""
    negations: int
    quoted: tuple[str, ...]
    names: frozenset[str]
    """Capitalised or digit-bearing words: must occur in the other text as well."""
    directed: bool
    """Holds a word that makes order matter."""
    code: bool
    must_agree: str
    """What two texts must have in common for `same_saying`: negations, guarded words, quotations."""
    content: str
    """The content words, sorted: equal for texts that use the same ones."""


def text_profile(text: str) -> TextProfile:
    """Return the profile of one text."""
    # Short texts repeat within a group of rollouts; long ones would only fill memory.
    return _remembered(text) if len(text) <= _LONG_TEXT else _profile(text)


_LONG_TEXT = 2000
_ELISION = re.compile(r"(?:[ldjmtscn]|qu)['’](?=\w)", re.IGNORECASE)


def _profile(text: str) -> TextProfile:
    order: list[str] = []
    guarded: list[str] = []
    names: list[str] = []
    negations = 0
    directed = False
    # Most texts are letters and spaces: then splitting finds what the expressions would, at a fifth.
    bare = text.islower() and text.replace(" ", "").isalnum()
    for written in text.split() if bare else _TOKEN.findall(text):
        word = _word(written)
        if word.plain:
            order.append(word.stem)
            continue
        negations += word.negations
        directed = directed or word.directed
        if word.guarded is not None:
            guarded.append(word.guarded)
        if word.content:
            order.append(word.stem)
            if word.name:
                names.append(word.stem)
    # Two searches that hardly ever find anything, and cost as much as all the rest: ask first.
    odd = not bare and _ODD.search(text) is not None
    stems = frozenset(order)
    quoted = _quotations(text) if odd else ()
    if guarded:
        guarded.sort()
    return TextProfile(
        stems=stems,
        order=tuple(order),
        guarded=tuple(guarded),
        negations=negations,
        quoted=quoted,
        must_agree=f"{negations}\x1e{_LISTED(guarded)}\x1e{_LISTED(quoted)}",
        content=_LISTED(sorted(stems)),
        names=frozenset(names),
        directed=directed,
        code=odd and _CODE_SIGNS.search(text) is not None,
    )


_LISTED = "\x1f".join


def _quotations(text: str) -> tuple[str, ...]:
    return tuple(
        sorted("".join(part or "" for part in found).casefold() for found in _QUOTED.findall(text))
    )


class _Word(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one word contributes to a profile."""

    stem: str
    plain: bool
    """Nothing but a content word."""
    content: bool
    name: bool = False
    directed: bool = False
    negations: int = 0
    guarded: str | None = None


@functools.lru_cache(maxsize=1 << 17)
def _word(word: str) -> _Word:
    if word.isalpha() and word.islower() and word.isascii():
        stem = _stem(word)
        if word not in _LOADED and stem not in _LOADED:  # as nearly all words are
            return _Word(stem=stem, plain=True, content=True)
    negations = 0
    directed = False
    elision = _ELISION.match(word)  # d'Oslo, n'ai
    if elision is not None:
        negations += word[0] in "nN"
        directed = word[0] in "dD"
        word = word[elision.end() :]
    folded = word.casefold().replace("’", "'")
    stem = _stem(folded)
    negations += folded.endswith("n't") or folded in _NEGATIONS
    directed = directed or folded in _DIRECTIONS
    alpha = word.isalpha()
    digits = not alpha and any(sign.isdigit() for sign in word)
    symbol = not word[0].isalnum()
    guarded = digits or symbol or folded in _NUMBER_WORDS or stem in _CALENDAR
    content = not (folded in _VACUOUS or stem in _VACUOUS or symbol)
    name = digits or word[0].isupper() or (not alpha and any(sign in word for sign in "@_#/"))
    return _Word(
        stem=stem,
        plain=content and not (name or directed or negations or guarded),
        content=content,
        name=name,
        directed=directed,
        negations=negations,
        guarded=folded if guarded else None,
    )


_remembered = functools.lru_cache(maxsize=65536)(_profile)


def _stem(word: str) -> str:
    """Return the word without an English or French plural; anything cleverer merges meanings."""
    if word.endswith("'s"):
        word = word[:-2]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Whether two things may match, and why not."""

    score: float
    """In [0, 1]; 0 where a guard refused."""
    refused: str | None = None


SAME_WORDS = Verdict(score=1.0)


def same_saying(asked: TextProfile, kept: TextProfile, min_score: float) -> Verdict:
    """Say whether two different texts ask for the same, in other words at most. Symmetric."""
    same = asked.order == kept.order and asked.must_agree == kept.must_agree
    if same and asked.stems and not (asked.code or kept.code):
        return SAME_WORDS
    problem = _text_problem(asked, kept)
    if problem is not None:
        return Verdict(score=0.0, refused=problem)
    total = len(asked.stems) + len(kept.stems)
    score = 2 * len(asked.stems & kept.stems) / total
    if score < min_score:
        return Verdict(score=0.0, refused=f"only {score:.2f} of the content words are shared")
    return Verdict(score=score)


def _text_problem(asked: TextProfile, kept: TextProfile) -> str | None:
    if asked.code or kept.code:
        return "looks like code"
    if asked.negations != kept.negations:
        return "a negation differs"
    if asked.guarded != kept.guarded:
        return "a number or a date word differs"
    if asked.quoted != kept.quoted:
        return "a quotation differs"
    only_asked, only_kept = asked.stems - kept.stems, kept.stems - asked.stems
    if (only_asked & asked.names) or (only_kept & kept.names):
        return "a name differs"
    if only_asked and only_kept:
        return "a content word was replaced"
    if not asked.stems or not kept.stems:
        return "nothing but filler words to compare"
    common = asked.stems & kept.stems
    order_asked = [stem for stem in asked.order if stem in common]
    order_kept = [stem for stem in kept.order if stem in common]
    if order_asked != order_kept:
        if Counter(order_asked) != Counter(order_kept):
            return "a word is repeated in one text only"
        moved = {a for a, b in zip(order_asked, order_kept, strict=True) if a != b}
        loaded = asked.names | kept.names | set(asked.guarded)
        if asked.directed or kept.directed or moved & loaded or asked.names or kept.names:
            return "words changed places"
    return None


def fuzzy(asked: Shape, kept: Shape, min_score: float = FUZZY_MIN_SCORE) -> Verdict:
    """Say whether `kept` may answer `asked` as FUZZY. Symmetric; the score is the worst text's."""
    if asked.gate != kept.gate:
        return Verdict(score=0.0, refused="an identity field differs")
    if not asked.texts:
        return Verdict(score=0.0, refused="no free text: equal or different, nothing between")
    if [place for place, _ in asked.texts] != [place for place, _ in kept.texts]:
        return Verdict(score=0.0, refused="a text is present in one call only")
    worst = 1.0
    for (place, ours), (_, theirs) in zip(asked.texts, kept.texts, strict=True):
        if ours == theirs:
            continue
        verdict = same_saying(text_profile(ours), text_profile(theirs), min_score)
        if verdict.refused is not None:
            return Verdict(score=0.0, refused=f"{place}: {verdict.refused}")
        worst = min(worst, verdict.score)
    return Verdict(score=worst)


def features(shape: Shape) -> dict[str, float]:
    """Return what calls are ranked by: each feature and its weight; identities weigh more."""
    weighted: dict[str, float] = {}
    for field in shape.fields:
        weighted[f"{field.path}={field.token}"] = KIND_WEIGHT[field.kind]
    for place, text in shape.texts:
        stems = sorted(text_profile(text).stems, key=lambda stem: (-len(stem), stem))
        for stem in stems[:MAX_TEXT_TOKENS]:
            weighted[f"{place}~{stem}"] = TEXT_TOKEN_WEIGHT
    return weighted


def overlap(asked: dict[str, float], kept: dict[str, float]) -> float:
    """Return the weighted Dice overlap of two calls' features, in [0, 1]. Symmetric."""
    total = sum(asked.values()) + sum(kept.values())
    if total == 0.0:
        return 1.0  # two calls without arguments
    shared = sum(weight for feature, weight in asked.items() if feature in kept)
    return 2.0 * shared / total


def differences(asked: Shape, kept: Shape) -> tuple[str, ...]:
    """Return the paths where two calls differ, sorted."""
    ours = {(field.path, field.token) for field in asked.fields} | set(asked.texts)
    theirs = {(field.path, field.token) for field in kept.fields} | set(kept.texts)
    return tuple(sorted({path for path, _ in ours ^ theirs}))
