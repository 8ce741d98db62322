"""Whether two conversations are one lesson, and whether a held-out task is among the training tasks.

Exact: the same words, calls, results and answer, whatever the task is called. Near: MinHash over word
triples, found through locality-sensitive hashing, so that nobody compares everything with everything.

Sources: A. Broder, On the resemblance and containment of documents (1997); K. Lee et al., Deduplicating
Training Data Makes Language Models Better, arXiv:2107.06499 (near duplicates by MinHash); T. Brown et al.,
Language Models are Few-Shot Learners, arXiv:2005.14165, appendix C (overlap with test sets by n-grams).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from cacherl.core.errors import MissingExtraError
from cacherl.core.messages import AssistantMessage, ToolCall, UserMessage
from cacherl.core.trajectories import Trajectory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PERMUTATIONS = 128
"""Of a sketch: a stated likeness of 0.9 is off by 0.03 (one standard deviation)."""
FOUND = 0.99
"""Of texts exactly as alike as asked for, the share that is found; more alike ones are found more surely."""
SHINGLE = 3
"""Words. One other id in a request of fifteen words already halves the likeness: another lesson."""
GRAM = 8
"""Words of a run that two texts share by more than chance."""
HELD_OUT_SHARE = 0.5
"""A text repeats a held-out one when they share this much of the shorter one's runs of `GRAM` words."""
SHARED_RUNS = 6
"""At least so many, which is 13 words in one piece: a generator's short wordings share less, with other ids."""
HELD_OUT_LIKENESS = 0.8
"""Or when they are at least this alike, which also finds texts too short for such runs."""
BOILERPLATE = 20
"""A run of words in more held-out tasks than this is the wording of a generator and tells none apart."""

Sketch: TypeAlias = "NDArray[np.uint32]"
"""Shape [PERMUTATIONS]: what is kept of a text to tell how alike it is to another."""

# Scripts written without spaces: each character is a word, or a whole sentence would be one.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]+"
)


def signature(trajectory: Trajectory) -> bytes:
    """Return a digest of what makes a trajectory itself: user's words, calls, results, answer.

    Call ids, thinking and who acted are left out; so is the task's id, because generators repeat
    themselves under new ids.
    """
    encoder = msgspec.json.Encoder(order="sorted")
    parts: list[object] = []
    for message in trajectory.messages:
        if isinstance(message, UserMessage):
            parts.append(["user", message.content])
        elif isinstance(message, AssistantMessage):
            parts.extend(
                ["call", call.name, call.arguments]
                if isinstance(call, ToolCall)
                else ["malformed", call.text]
                for call in message.calls
            )
            if not message.calls:
                parts.append(["answer", " ".join(message.content.split())])
    # Same words over another database are another lesson: the results tell them apart.
    parts.append([result.text for result in trajectory.results])
    return hashlib.blake2b(encoder.encode(parts), digest_size=16).digest()


def words(text: str) -> list[str]:
    """Return the words of a text as two texts are compared: case, width and punctuation aside."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def asked(trajectory: Trajectory) -> str:
    """Return all that the user says."""
    return "\n".join(m.content for m in trajectory.messages if isinstance(m, UserMessage))


def done(trajectory: Trajectory) -> list[str]:
    """Return the words of what is asked and of the calls made, in order."""
    found = words(asked(trajectory))
    for message in trajectory.messages:
        if isinstance(message, AssistantMessage):
            for call in message.calls:
                if isinstance(call, ToolCall):
                    arguments = msgspec.json.encode(call.arguments, order="sorted").decode()
                    found += [call.name, *words(arguments)]
                else:
                    found += words(call.text)
    return found


def runs(said: Sequence[str], length: int) -> set[bytes]:
    """Return every run of `length` words; a shorter text is one run."""
    if not said:
        return set()
    last = max(len(said) - length, 0)
    return {" ".join(said[i : i + length]).encode() for i in range(last + 1)}


class Sketcher:
    """Makes sketches of texts: the same words, the same sketch, on every machine."""

    def __init__(self) -> None:
        try:
            from datasketch import MinHash
        except ImportError as error:
            raise MissingExtraError("datasketch", "card") from error
        self._empty: Any = MinHash(num_perm=PERMUTATIONS, seed=1)

    def of(self, said: Sequence[str]) -> Sketch:
        """Return the sketch of a text's words."""
        hashed = self._empty.copy()
        hashed.update_batch(runs(said, SHINGLE))
        sketch: Sketch = hashed.hashvalues
        return sketch


def likeness(left: Sketch, right: Sketch) -> float:
    """Return the estimated Jaccard likeness of two texts' word triples, in [0, 1]."""
    return float((left == right).mean())


def bands(threshold: float) -> tuple[int, int]:
    """Return into how many bands of how many rows a sketch is cut, so that next to nothing is missed.

    The longest rows with which a text exactly at the threshold is found with a chance of `FOUND`; what
    is found and not alike enough is compared in vain, a microsecond each.
    """
    for rows in range(PERMUTATIONS, 1, -1):
        count = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** count >= FOUND:
            return count, rows
    return PERMUTATIONS, 1


class Alike:
    """Texts by name, and which of them is like another. Grows by one text at a time."""

    def __init__(self, threshold: float) -> None:
        """`threshold` in (0, 1]: the least likeness that counts."""
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError as error:
            raise MissingExtraError("datasketch", "card") from error
        self._threshold = threshold
        self._near: Any = MinHashLSH(
            num_perm=PERMUTATIONS,
            params=bands(threshold),
            hashfunc=lambda band: hashlib.blake2b(band, digest_size=8).digest(),
        )
        same = MinHash(num_perm=PERMUTATIONS, seed=1).permutations

        def as_hash(sketch: Sketch) -> Any:
            return MinHash(hashvalues=sketch, permutations=same, scheme="affine32")

        self._as_hash = as_hash
        self._kept: dict[int, Sketch] = {}

    def find(
        self, sketch: Sketch, accept: Callable[[int], bool] = lambda key: True
    ) -> tuple[int, float] | None:
        """Return the text most like this one and how alike it is; None where none is alike enough.

        Among those that `accept` takes; of several equally alike the one with the smallest number.
        """
        best: tuple[float, int] | None = None
        for key in self._near.query(self._as_hash(sketch)):
            alike = likeness(sketch, self._kept[key])
            if alike >= self._threshold and accept(key) and (best is None or (-alike, key) < best):
                best = (-alike, key)
        return None if best is None else (best[1], -best[0])

    def add(self, key: int, sketch: Sketch) -> None:
        """Keep a text under a number that no other has."""
        self._near.insert(key, self._as_hash(sketch))
        self._kept[key] = sketch


class HeldOutTexts:
    """What held-out tasks ask, to keep it out of training."""

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        """`texts`: the id of each held-out task and what its user says."""
        self._sketcher = Sketcher()
        self._alike = Alike(HELD_OUT_LIKENESS)
        self._names: list[str] = []
        self._exact: dict[tuple[str, ...], int] = {}
        self._sizes: list[int] = []
        holders: dict[bytes, list[int]] = {}
        for name, text in texts:
            said = words(text)
            if not said or tuple(said) in self._exact:
                continue
            number = len(self._names)
            self._names.append(name)
            self._exact[tuple(said)] = number
            self._alike.add(number, self._sketcher.of(said))
            held = runs(said, GRAM)
            self._sizes.append(len(held))
            for run in held:
                holders.setdefault(_short(run), []).append(number)
        self._holders = {run: held for run, held in holders.items() if len(held) <= BOILERPLATE}

    def __len__(self) -> int:
        return len(self._names)

    def repeated_by(self, text: str) -> str:
        """Return which held-out task a text repeats, and how; empty where it repeats none."""
        said = words(text)
        if not said or not self._names:
            return ""
        same = self._exact.get(tuple(said))
        if same is not None:
            return f"{self._names[same]}: the same words"
        own = runs(said, GRAM)
        shared = Counter(number for run in own for number in self._holders.get(_short(run), ()))
        long = [
            (-count / min(len(own), self._sizes[number]), number)
            for number, count in shared.items()
            if count >= SHARED_RUNS
        ]
        if long:
            share, number = min(long)
            if -share >= HELD_OUT_SHARE:
                return f"{self._names[number]}: {-share:.0%} of its runs of {GRAM} words"
        found = self._alike.find(self._sketcher.of(said))
        return f"{self._names[found[0]]}: {found[1]:.0%} alike" if found else ""


def _short(run: bytes) -> bytes:
    return hashlib.blake2b(run, digest_size=8).digest()
