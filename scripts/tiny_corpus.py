"""Generated tool-call conversations for pre-training the tiny base model.

Schemas, names, ids and values are random, so the only way to predict them is to have learnt the
format, to look tools up by the words of the request, and to copy. The support desk is not here: none of
its nouns, tools, policies or wordings (`tests/test_tiny_base.py` holds the corpus to that).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wordfreq import top_n_list

from cacherl.core.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.tools import ToolSpec

Json = dict[str, Any]

# English noun -> French noun with its article. No noun of the support desk.
NOUNS = {
    "sensor": "le capteur", "room": "la salle", "parcel": "le colis", "book": "le livre",
    "truck": "le camion", "plant": "la plante", "song": "la chanson", "photo": "la photo",
    "server": "le serveur", "flight": "le vol", "boat": "le bateau", "recipe": "la recette",
    "player": "le joueur", "team": "l'équipe", "lamp": "la lampe", "door": "la porte",
    "pump": "la pompe", "bike": "le vélo", "car": "la voiture", "house": "la maison",
    "contract": "le contrat", "invoice": "la facture", "patient": "le patient", "course": "le cours",
    "student": "l'élève", "file": "le fichier", "folder": "le dossier", "device": "l'appareil",
    "camera": "la caméra", "printer": "l'imprimante", "battery": "la batterie", "meter": "le compteur",
    "field": "le champ", "tree": "l'arbre", "animal": "l'animal", "visit": "la visite",
    "member": "le membre", "account": "le compte", "payment": "le paiement", "budget": "le budget",
    "project": "le projet", "task": "la tâche", "job": "le travail", "machine": "la machine",
    "engine": "le moteur", "route": "la route", "train": "le train", "station": "la station",
    "hotel": "l'hôtel", "table": "la table", "menu": "le menu", "event": "l'événement",
    "message": "le message", "channel": "le canal", "user": "l'utilisateur", "group": "le groupe",
    "shop": "le magasin", "box": "la boîte", "tank": "le réservoir", "valve": "la vanne",
}  # fmt: skip
# Verb -> (English phrases, French phrases). Actions change one thing named by its id.
ACTIONS = {
    "stop": (("stop", "halt", "please stop"), ("arrêtez", "stoppez", "merci d'arrêter")),
    "start": (("start", "launch", "start up"), ("démarrez", "lancez", "mettez en route")),
    "remove": (("remove", "delete", "get rid of"), ("supprimez", "retirez", "enlevez")),
    "lock": (("lock", "lock down", "please lock"), ("verrouillez", "bloquez", "merci de verrouiller")),
    "move": (("move", "relocate", "please move"), ("déplacez", "bougez", "transférez")),
    "clean": (("clean", "clean up", "have someone clean"), ("nettoyez", "faites nettoyer", "lavez")),
    "repair": (("repair", "fix", "mend"), ("réparez", "faites réparer", "remettez en état")),
    "share": (("share", "publish", "please share"), ("partagez", "publiez", "diffusez")),
    "archive": (("archive", "put away", "store"), ("archivez", "rangez", "classez")),
    "rename": (("rename", "give a new name to", "relabel"), ("renommez", "rebaptisez", "changez le nom de")),
    "approve": (("approve", "accept", "sign off"), ("approuvez", "acceptez", "validez")),
    "reject": (("reject", "turn down", "decline"), ("rejetez", "refusez", "déclinez")),
    "pause": (("pause", "hold", "suspend"), ("suspendez", "mettez en pause", "gelez")),
    "renew": (("renew", "extend", "prolong"), ("renouvelez", "prolongez", "étendez")),
    "reserve": (("reserve", "block", "keep"), ("réservez", "gardez", "retenez")),
    "assign": (("assign", "give", "hand over"), ("attribuez", "donnez", "confiez")),
}  # fmt: skip
FIELDS = {
    "status": "le statut", "level": "le niveau", "price": "le prix", "size": "la taille",
    "weight": "le poids", "speed": "la vitesse", "color": "la couleur", "owner": "le propriétaire",
    "place": "le lieu", "score": "le score", "age": "l'âge", "count": "le nombre", "cost": "le coût",
    "kind": "le type", "zone": "la zone", "day": "le jour", "year": "l'année", "height": "la hauteur",
    "amount": "le montant", "name": "le nom", "mail": "l'adresse mail", "code": "le code",
}  # fmt: skip
STATES = (
    "open",
    "closed",
    "active",
    "idle",
    "broken",
    "new",
    "old",
    "empty",
    "full",
    "late",
    "early",
    "ready",
    "busy",
    "free",
    "lost",
    "safe",
    "hot",
    "cold",
    "draft",
    "final",
    "public",
    "private",
    "paid",
    "unpaid",
    "large",
    "small",
    "high",
    "low",
    "left",
    "right",
    "done",
    "waiting",
)
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
EN_WORDS = [w for w in top_n_list("en", 6000) if w.isalpha() and len(w) > 2]
FR_WORDS = [w for w in top_n_list("fr", 6000) if w.isalpha() and len(w) > 2]

# Words of the built-in world, kept out of names here so that the base has never seen them.
DESK = frozenset(
    [
        "order",
        "orders",
        "customer",
        "customers",
        "refund",
        "refunds",
        "ticket",
        "tickets",
        "article",
        "articles",
        "slot",
        "slots",
        "appointment",
        "appointments",
        "desk",
        "cancel",
        "commande",
        "commandes",
        "client",
        "clients",
        "remboursement",
        "rembourser",
        "annuler",
        "rendez",
        "billet",
        "créneau",
        "kb",
        "support",
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A random kind of thing, with the tools that act on it."""

    noun: str
    french: str
    id_name: str
    prefix: str
    digits: int
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Conversations that share their system message and tools (and so a prompt prefix)."""

    system: str
    tools: tuple[ToolSpec, ...]
    conversations: tuple[tuple[Message, ...], ...]


class Corpus:
    """A stream of groups; the same seed gives the same stream on every machine."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._loose = False
        self._french = False

    # ---- random values -------------------------------------------------------------------------

    def word(self, french: bool = False) -> str:
        words = FR_WORDS if french else EN_WORDS
        while True:
            # Zipf-like: common words more often, all words sometimes.
            word = words[int(len(words) * self.random.random() ** 2)]
            if word not in DESK:
                return word

    def made_up(self) -> str:
        r = self.random
        return "".join(
            r.choice("bcdfglmnprstvz") + r.choice(["a", "e", "i", "o", "u", "ai", "or", "en"])
            for _ in range(r.randint(2, 3))
        )

    def name(self) -> str:
        return (
            self.made_up().capitalize() if self.random.random() < 0.6 else self.word().capitalize()
        )

    def mail(self) -> str:
        r = self.random
        left = (
            self.made_up()
            + r.choice(["", ".", "_"])
            + r.choice([self.made_up(), str(r.randint(1, 99)), ""])
        )
        return f"{left.rstrip('._')}@{self.made_up()}.{r.choice(['com', 'org', 'net', 'fr', 'io'])}"

    def id_of(self, family: Family) -> str:
        low = 10 ** (family.digits - 1)
        return f"{family.prefix}{self.random.randint(low, 10 * low - 1)}"

    def value(self, field: str) -> Any:
        r = self.random
        match field:
            case "status" | "kind":
                return r.choice(STATES)
            case "owner" | "name" | "place" | "zone":
                return self.name()
            case "color":
                return r.choice(
                    ["red", "blue", "green", "black", "white", "yellow", "grey", "brown"]
                )
            case "day":
                return r.choice(DAYS)
            case "mail":
                return self.mail()
            case "code":
                return "".join(
                    r.choice("ABCDEFGHKLMNPRST0123456789") for _ in range(r.randint(3, 5))
                )
            case "year":
                return r.randint(1950, 2030)
            case _:
                return r.choice(
                    [r.randint(1, 9), r.randint(10, 99), r.randint(100, 999), r.randint(1000, 9999)]
                )

    # ---- tools ---------------------------------------------------------------------------------

    def family(self, taken: set[str]) -> Family:
        r = self.random
        while True:
            noun = (
                r.choice(list(NOUNS))
                if r.random() < 0.7
                else r.choice([self.made_up(), self.word()])
            )
            if noun not in taken and noun not in DESK:
                break
        taken.add(noun)
        letter = r.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        prefix = r.choice(
            [
                f"{letter}-",
                f"{letter}-",
                letter,
                f"{letter}{r.choice('ABCDEFGH')}-",
                "",
                f"{noun[:3].upper()}-",
            ]
        )
        return Family(
            noun=noun,
            french=NOUNS.get(noun, f"le {noun}"),
            id_name=r.choice([f"{noun}_id", f"{noun}_id", "id", noun, f"{noun}_ref"]),
            prefix=prefix,
            digits=r.choice([2, 3, 3, 4, 4, 5]),
            fields=tuple(r.sample(list(FIELDS), r.randint(2, 4))),
        )

    def spec(
        self, name: str, description: str, properties: Json, optional: tuple[str, ...] = ()
    ) -> ToolSpec:
        required = [key for key in properties if key not in optional]
        return ToolSpec(
            name=name,
            description=description,
            parameters={"type": "object", "properties": properties, "required": required},
        )

    def getter(self, f: Family) -> ToolSpec:
        r = self.random
        verb, description = r.choice(
            [("get", "Get one"), ("show", "Show one"), ("read", "Read a"), ("fetch", "Look up one")]
        )
        return self.spec(
            f"{verb}_{f.noun}", f"{description} {f.noun}", {f.id_name: {"type": "string"}}
        )

    def action(self, f: Family, verb: str, extra: Json | None = None) -> ToolSpec:
        description = f"{self.random.choice(ACTIONS[verb][0]).capitalize()} a {f.noun}".replace(
            "Please ", ""
        )
        return self.spec(
            f"{verb}_{f.noun}", description, {f.id_name: {"type": "string"}, **(extra or {})}
        )

    def setter(self, f: Family, field: str) -> ToolSpec:
        value = self.value(field)
        kind: Json = {"type": "integer"} if isinstance(value, int) else {"type": "string"}
        return self.spec(
            f"{self.random.choice(['set', 'change', 'update'])}_{f.noun}_{field}"
            if self.random.random() < 0.5
            else f"set_{field}",
            f"Change the {field} of a {f.noun}",
            {f.id_name: {"type": "string"}, field: kind},
        )

    def finder(self, f: Family, by: str) -> ToolSpec:
        return self.spec(f"find_{f.noun}", f"Find a {f.noun} by {by}", {by: {"type": "string"}})

    def lister(self, f: Family, parent: Family) -> ToolSpec:
        return self.spec(
            f"list_{f.noun}s",
            f"List the {f.noun}s of a {parent.noun}",
            {parent.id_name: {"type": "string"}},
        )

    # ---- wordings ------------------------------------------------------------------------------

    def dress(self, text: str, french: bool) -> str:
        r = self.random
        opener = r.choice(
            ["", "", "", "Bonjour, ", "Salut, ", "Bonjour ! ", "S'il vous plaît, ", "Voilà : "]
            if french
            else [
                "",
                "",
                "",
                "Hello, ",
                "Hi, ",
                "Hi! ",
                "Please ",
                "Hey, ",
                "Quick one: ",
                "Good morning, ",
            ]
        )
        closer = r.choice(
            ["", "", "", " Merci.", " Merci d'avance.", " C'est urgent.", " Merci beaucoup !"]
            if french
            else [
                "",
                "",
                "",
                " Thanks.",
                " Thank you!",
                " It is urgent.",
                " Cheers.",
                " Thanks a lot.",
            ]
        )
        if (
            r.random() < 0.25
        ):  # something that does not matter: the model must learn to look past it
            words = [self.word(french) for _ in range(r.randint(3, 8))]
            filler = " ".join(words).capitalize() + r.choice([". ", "! ", ", "])
            opener = filler + opener if r.random() < 0.5 else opener
            closer = closer if opener.startswith(filler) else " " + filler.strip(" ,") + closer
        return (opener + (text[0].lower() + text[1:] if opener.endswith(", ") else text)) + closer

    def ask(self, f: Family, ident: str, field: str | None, french: bool) -> str:
        r = self.random
        if french:
            if field is None:
                return r.choice(
                    [
                        f"Regardez {f.french} {ident}.",
                        f"Que sait-on sur {f.french} {ident} ?",
                        f"Montrez-moi {ident}.",
                    ]
                )
            name = FIELDS[field]
            return r.choice(
                [
                    f"Quel est {name} pour {f.french} {ident} ?",
                    f"Donnez-moi {name} : {f.french} {ident}.",
                    f"Je veux connaître {name} ({ident}).",
                    f"Pouvez-vous me dire {name} pour {ident} ?",
                ]
            )
        if field is None:
            return r.choice(
                [
                    f"Show me {f.noun} {ident}.",
                    f"What do we know about {f.noun} {ident}?",
                    f"Look at {ident}.",
                ]
            )
        return r.choice(
            [
                f"What is the {field} of {f.noun} {ident}?",
                f"Tell me the {field} of {ident}.",
                f"I need the {field} for {f.noun} {ident}.",
                f"Could you check the {field} of my {f.noun} {ident}?",
                f"{f.noun.capitalize()} {ident}: which {field}?",
            ]
        )

    def order_text(self, f: Family, verb: str, ident: str, french: bool) -> str:
        phrase = self.random.choice(ACTIONS[verb][1 if french else 0])
        phrase = phrase.removeprefix("please ")
        if french:
            return self.random.choice(
                [
                    f"{phrase.capitalize()} {f.french} {ident}.",
                    f"{f.french.capitalize()} {ident} : {phrase} s'il vous plaît.",
                ]
            )
        return self.random.choice(
            [
                f"{phrase.capitalize()} {f.noun} {ident}.",
                f"I want you to {phrase} the {f.noun} {ident}.",
                f"Can you {phrase} {ident}?",
                f"My {f.noun} is {ident}, {phrase} it.",
            ]
        )

    # ---- turns ---------------------------------------------------------------------------------

    def restyle(self, text: str) -> str:
        """Return `text` with most plain words replaced by random ones where the conversation is loose.

        Ids, numbers, mails and tool names stay. Whoever learns from such text knows what must be copied and
        takes the words around it lightly, so that a later fine-tuning teaches its own style quickly.
        """
        if not self._loose:
            return text
        r = self.random
        out = []
        for part in text.split(" "):
            core = part.strip(".,:;!?'")
            if not core.isalpha() or r.random() < 0.15:
                out.append(part)
                continue
            word = self.word(self._french)
            word = word.capitalize() if core[0].isupper() else word
            if r.random() < 0.2:
                word += f" {self.word(self._french)}"
            tail = part[len(part.rstrip(".,:;!?")) :]
            out.append(
                word + (r.choice([":", ",", "", "."]) if tail and r.random() < 0.3 else tail)
            )
            if r.random() < 0.1:
                out.append(self.word(self._french))
        return " ".join(out)

    def turn(self, think: str, *calls: tuple[str, Json], base: int = 0) -> AssistantMessage:
        return AssistantMessage(
            thinking=self.restyle(think),
            calls=tuple(
                ToolCall(id=f"call_{base + i}", name=name, arguments=arguments)
                for i, (name, arguments) in enumerate(calls)
            ),
        )

    def result(self, name: str, value: Any, number: int = 0) -> ToolMessage:
        return ToolMessage(
            call_id=f"call_{number}", name=name, content=json.dumps(value, ensure_ascii=False)
        )

    def record(self, f: Family, ident: str, **fixed: Any) -> Json:
        value: Json = {f.id_name: ident}
        for field in f.fields:
            value[field] = self.value(field)
        value.update(fixed)
        return value

    def answer(self, think: str, text: str) -> AssistantMessage:
        return AssistantMessage(thinking=self.restyle(think), content=self.restyle(text))

    # ---- conversations -------------------------------------------------------------------------

    def group(self, size: int) -> Group:
        """Return one group of `size` conversations on one random set of tools."""
        r = self.random
        taken: set[str] = set()
        a, b = self.family(taken), self.family(taken)
        find_by = r.choice(["mail", "name", "code"])
        verbs = r.sample(list(ACTIONS), 3)
        numeric = [f for f in a.fields if isinstance(self.value(f), int)]
        field = r.choice(numeric or list(a.fields))
        get_a, get_b = self.getter(a), self.getter(b)
        find_b = self.finder(b, find_by)
        list_a = self.lister(a, b)
        act_a, act_b = self.action(a, verbs[0]), self.action(a, verbs[1])
        levels = r.sample(STATES, 3)
        act_c = self.action(b, verbs[2], {"level": {"type": "string", "enum": levels}})
        set_a = self.setter(a, field)
        bad, good = r.sample(STATES, 2)
        system = self.system(a, bad, verbs)

        g = _Kit(
            corpus=self, a=a, b=b, get_a=get_a, get_b=get_b, find_b=find_b, list_a=list_a, act_a=act_a,
            act_b=act_b, act_c=act_c, set_a=set_a, field=field, find_by=find_by, verbs=tuple(verbs), levels=tuple(levels),
            bad=bad, good=good,
        )  # fmt: skip
        plans: list[tuple[Callable[[bool], list[Message]], tuple[ToolSpec, ...]]] = [
            (g.read_one, (get_a,)),
            (g.read_two, (get_a,)),
            (g.follow_link, (get_a, get_b)),
            (g.act_directly, (act_a,)),
            (g.check_then_act, (get_a, act_a, act_b)),
            (g.find_list_act, (find_b, list_a, act_a)),
            (g.enum_action, (act_c,)),
            (g.set_value, (set_a,)),
            (g.copy_value, (get_a, set_a)),
            (g.missing_then_other, (get_a,)),
            (g.second_turn, (get_a, act_a)),
            (g.find_then_enum, (find_b, act_c)),
        ]
        chosen = r.sample(plans, r.randint(3, 5))
        needed = list({tool.name: tool for _, tools in chosen for tool in tools}.values())
        while len(needed) > 6:
            chosen.pop()
            needed = list({tool.name: tool for _, tools in chosen for tool in tools}.values())
        needed += self.distractors(taken)
        r.shuffle(needed)
        conversations = []
        for _ in range(size):
            french = self._french = r.random() < 0.4
            self._loose = r.random() < 0.7
            # Talk without tools is rare: it is easy, and it must not become the habit.
            plan = g.small_talk if r.random() < 0.06 else r.choice(chosen)[0]
            conversations.append((SystemMessage(content=system), *plan(french)))
        return Group(system=system, tools=tuple(needed), conversations=tuple(conversations))

    def distractors(self, taken: set[str]) -> list[ToolSpec]:
        """Return up to two tools of another family, which no conversation needs."""
        count = self.random.choice([0, 0, 1, 2])
        other = self.family(taken)
        verb = self.random.choice(list(ACTIONS))
        levels = self.random.sample(STATES, 4)
        extra = {"level": {"type": "string", "enum": levels}}
        return [self.getter(other), self.action(other, verb, extra)][:count]

    def system(self, a: Family, bad: str, verbs: list[str]) -> str:
        r = self.random
        role = r.choice(
            [
                f"You help with {a.noun}s.",
                f"You are an assistant for {self.name()}.",
                "Answer with the tools.",
                f"You work for {self.name()} {self.name()}.",
            ]
        )
        rule = r.choice(
            [
                f"Rule: {verbs[1]} a {a.noun} that is {bad}, else {verbs[0]} it.",
                f"When a {a.noun} is {bad}, {verbs[1]} it; otherwise {verbs[0]} it.",
                f"{a.noun.capitalize()}s: if {bad} then {verbs[1]}, if not {verbs[0]}.",
            ]
        )
        return f"{role} {rule}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kit:
    """The tools of one group and the conversation plans over them."""

    corpus: Corpus
    a: Family
    b: Family
    get_a: ToolSpec
    get_b: ToolSpec
    find_b: ToolSpec
    list_a: ToolSpec
    act_a: ToolSpec
    act_b: ToolSpec
    act_c: ToolSpec
    set_a: ToolSpec
    field: str
    find_by: str
    verbs: tuple[str, ...]
    levels: tuple[str, ...]
    bad: str
    good: str

    def user(self, text: str, french: bool) -> UserMessage:
        return UserMessage(content=self.corpus.dress(text, french))

    def say(self, french: bool, en: str, fr: str) -> str:
        return fr if french else en

    def read_one(self, french: bool, ident: str | None = None) -> list[Message]:
        c, a = self.corpus, self.a
        ident, field = ident or c.id_of(a), c.random.choice(a.fields)
        value = c.record(a, ident)
        return [
            self.user(c.ask(a, ident, field, french), french),
            c.turn(
                self.say(
                    french,
                    f"I need the {field} of {ident}. Call {self.get_a.name}.",
                    f"Il faut {FIELDS[field]} de {ident}. J'appelle {self.get_a.name}.",
                ),
                (self.get_a.name, {a.id_name: ident}),
            ),
            c.result(self.get_a.name, value),
            self.tell(field, ident, value[field], french),
        ]

    def tell(self, field: str, ident: str, value: Any, french: bool) -> AssistantMessage:
        return self.corpus.answer(
            self.say(
                french, f"The {field} is {value}.", f"{FIELDS[field].capitalize()} est {value}."
            ),
            self.say(
                french,
                f"The {field} of {ident} is {value}.",
                f"Pour {ident}, {FIELDS[field]} est {value}.",
            ),
        )

    def read_two(self, french: bool) -> list[Message]:
        c, a = self.corpus, self.a
        one, two, field = c.id_of(a), c.id_of(a), c.random.choice(a.fields)
        first, second = c.record(a, one), c.record(a, two)
        text = c.random.choice(
            [
                f"Quel est {FIELDS[field]} pour {one} et {two} ?",
                f"Comparez {FIELDS[field]} : {one} et {two}.",
            ]
            if french
            else [
                f"What is the {field} of {one} and {two}?",
                f"Compare the {field} of {a.noun} {one} and {a.noun} {two}.",
            ]
        )
        return [
            self.user(text, french),
            c.turn(
                self.say(
                    french, f"Two at once: {one} and {two}.", f"Deux à la fois : {one} et {two}."
                ),
                (self.get_a.name, {a.id_name: one}),
                (self.get_a.name, {a.id_name: two}),
            ),
            c.result(self.get_a.name, first),
            c.result(self.get_a.name, second, 1),
            c.answer(
                self.say(
                    french,
                    f"{first[field]} and {second[field]}.",
                    f"{first[field]} et {second[field]}.",
                ),
                self.say(
                    french,
                    f"The {field}: {one} has {first[field]}, {two} has {second[field]}.",
                    f"{FIELDS[field].capitalize()} : {one} a {first[field]}, {two} a {second[field]}.",
                ),
            ),
        ]

    def follow_link(self, french: bool) -> list[Message]:
        c, a, b = self.corpus, self.a, self.b
        ident, other = c.id_of(a), c.id_of(b)
        field = c.random.choice(b.fields)
        value, linked = c.record(a, ident, **{b.noun: other}), c.record(b, other)
        text = self.say(
            french,
            c.random.choice(
                [
                    f"What is the {field} of the {b.noun} of {a.noun} {ident}?",
                    f"For {ident}, find its {b.noun} and tell me the {field}.",
                ]
            ),
            c.random.choice(
                [
                    f"Quel est {FIELDS[field]} pour {b.french} de {ident} ?",
                    f"Pour {ident}, trouvez {b.french} et donnez-moi {FIELDS[field]}.",
                ]
            ),
        )
        return [
            self.user(text, french),
            c.turn(
                self.say(
                    french,
                    f"First {ident}, to find its {b.noun}.",
                    f"D'abord {ident}, pour trouver {b.french}.",
                ),
                (self.get_a.name, {a.id_name: ident}),
            ),
            c.result(self.get_a.name, value),
            c.turn(
                self.say(
                    french,
                    f"The {b.noun} is {other}. Now read {other}.",
                    f"C'est {other}. Il faut lire {other}.",
                ),
                (self.get_b.name, {b.id_name: other}),
                base=1,
            ),
            c.result(self.get_b.name, linked, 1),
            self.tell(field, other, linked[field], french),
        ]

    def done(self, ident: str, verb: str, french: bool) -> AssistantMessage:
        return self.corpus.answer(
            self.say(french, f"{ident} is done.", f"{ident} est fait."),
            self.say(french, f"Done: {verb} {ident}.", f"C'est fait : {ident}."),
        )

    def acting(
        self, tool: ToolSpec, ident: str, why: str, arguments: Json, number: int
    ) -> list[Message]:
        c = self.corpus
        return [
            c.turn(why, (tool.name, arguments), base=number),
            c.result(
                tool.name,
                c.random.choice(
                    [{"ok": True}, {"id": ident, "done": True}, {"result": "done", "id": ident}]
                ),
                number,
            ),
        ]

    def act_directly(self, french: bool) -> list[Message]:
        c, a = self.corpus, self.a
        ident = c.id_of(a)
        why = self.say(
            french, f"The request is to {self.verbs[0]} {ident}.", f"Il faut agir sur {ident}."
        )
        return [
            self.user(c.order_text(a, self.verbs[0], ident, french), french),
            *self.acting(self.act_a, ident, why, {a.id_name: ident}, 0),
            self.done(ident, self.verbs[0], french),
        ]

    def check_then_act(self, french: bool) -> list[Message]:
        c, a = self.corpus, self.a
        ident = c.id_of(a)
        state = c.random.choice([self.bad, self.good])
        tool, verb = (
            (self.act_b, self.verbs[1]) if state == self.bad else (self.act_a, self.verbs[0])
        )
        text = c.random.choice(
            [
                f"Occupez-vous de {a.french} {ident} selon la règle.",
                f"Appliquez la règle à {ident}.",
            ]
            if french
            else [
                f"Handle {a.noun} {ident} by the rule.",
                f"Apply the rule to {ident}.",
                f"Do what is right with {a.noun} {ident}.",
            ]
        )
        return [
            self.user(text, french),
            c.turn(
                self.say(french, f"Read {ident} first.", f"Il faut lire {ident} d'abord."),
                (self.get_a.name, {a.id_name: ident}),
            ),
            c.result(self.get_a.name, c.record(a, ident, status=state)),
            *self.acting(
                tool,
                ident,
                self.say(
                    french, f"{ident} is {state}: {verb} it.", f"{ident} est {state} : {verb}."
                ),
                {a.id_name: ident},
                1,
            ),
            self.done(ident, verb, french),
        ]

    def find_list_act(self, french: bool) -> list[Message]:
        c, a, b = self.corpus, self.a, self.b
        key, parent = c.value(self.find_by), c.id_of(b)
        count = c.random.randint(2, 3)
        items = [{a.id_name: c.id_of(a), "status": s} for s in c.random.sample(STATES, count)]
        pick = c.random.choice(items)
        ident, state = str(pick[a.id_name]), pick["status"]
        phrase = c.random.choice(ACTIONS[self.verbs[0]][1 if french else 0]).removeprefix("please ")
        text = self.say(
            french,
            c.random.choice(
                [
                    f"I am {key}, {phrase} my {state} {a.noun}.",
                    f"{phrase.capitalize()} the {state} {a.noun} of {b.noun} {key}.",
                ]
            ),
            c.random.choice(
                [
                    f"Je suis {key}, {phrase} {a.french} ({state}).",
                    f"{phrase.capitalize()} {a.french} de {key}, l'état est {state}.",
                ]
            ),
        )
        return [
            self.user(text, french),
            c.turn(
                self.say(french, f"Find the {b.noun} by {key}.", f"Chercher avec {key}."),
                (self.find_b.name, {self.find_by: key}),
            ),
            c.result(self.find_b.name, c.record(b, parent)),
            c.turn(
                self.say(
                    french,
                    f"The {b.noun} is {parent}. List its {a.noun}s.",
                    f"C'est {parent}. Voyons sa liste.",
                ),
                (self.list_a.name, {b.id_name: parent}),
                base=1,
            ),
            c.result(self.list_a.name, {f"{a.noun}s": items}, 1),
            *self.acting(
                self.act_a,
                ident,
                self.say(
                    french, f"The {state} one is {ident}.", f"Celui qui est {state} : {ident}."
                ),
                {a.id_name: ident},
                2,
            ),
            self.done(ident, self.verbs[0], french),
        ]

    def enum_action(self, french: bool) -> list[Message]:
        c, b = self.corpus, self.b
        ident, level = c.id_of(b), c.random.choice(self.levels)
        text = c.order_text(b, self.verbs[2], ident, french) + self.say(
            french, f" Level {level}.", f" Niveau {level}."
        )
        why = self.say(
            french,
            f"{self.verbs[2]} {ident} with level {level}.",
            f"Agir sur {ident}, niveau {level}.",
        )
        return [
            self.user(text, french),
            *self.acting(self.act_c, ident, why, {b.id_name: ident, "level": level}, 0),
            self.done(ident, self.verbs[2], french),
        ]

    def find_then_enum(self, french: bool) -> list[Message]:
        c, b = self.corpus, self.b
        key, ident, level = c.value(self.find_by), c.id_of(b), c.random.choice(self.levels)
        phrase = c.random.choice(ACTIONS[self.verbs[2]][1 if french else 0]).removeprefix("please ")
        text = self.say(
            french,
            f"{phrase.capitalize()} the {b.noun} of {key}, level {level}.",
            f"{phrase.capitalize()} {b.french} de {key}, niveau {level}.",
        )
        why = self.say(
            french,
            f"The {b.noun} is {ident}, the level {level}.",
            f"C'est {ident}, niveau {level}.",
        )
        return [
            self.user(text, french),
            c.turn(
                self.say(french, f"Find the {b.noun} by {key}.", f"Chercher avec {key}."),
                (self.find_b.name, {self.find_by: key}),
            ),
            c.result(self.find_b.name, c.record(b, ident)),
            *self.acting(self.act_c, ident, why, {b.id_name: ident, "level": level}, 1),
            self.done(ident, self.verbs[2], french),
        ]

    def set_value(self, french: bool) -> list[Message]:
        c, a = self.corpus, self.a
        ident, value = c.id_of(a), c.value(self.field)
        text = self.say(
            french,
            c.random.choice(
                [
                    f"Set the {self.field} of {a.noun} {ident} to {value}.",
                    f"The {self.field} of {ident} must become {value}.",
                    f"Change {ident}: {self.field} {value}.",
                ]
            ),
            c.random.choice(
                [
                    f"Changez {FIELDS[self.field]} de {ident} : {value}.",
                    f"Pour {ident}, {FIELDS[self.field]} devient {value}.",
                ]
            ),
        )
        why = self.say(
            french,
            f"Set {self.field} of {ident} to {value}.",
            f"Mettre {FIELDS[self.field]} de {ident} à {value}.",
        )
        return [
            self.user(text, french),
            *self.acting(self.set_a, ident, why, {a.id_name: ident, self.field: value}, 0),
            self.done(ident, "set", french),
        ]

    def copy_value(self, french: bool) -> list[Message]:
        c, a = self.corpus, self.a
        source, target = c.id_of(a), c.id_of(a)
        value = c.record(a, source)
        copied = value[self.field]
        text = self.say(
            french,
            c.random.choice(
                [
                    f"Give {target} the same {self.field} as {source}.",
                    f"Copy the {self.field} of {source} to {target}.",
                ]
            ),
            c.random.choice(
                [
                    f"Donnez à {target} la même valeur que {source} : {FIELDS[self.field]}.",
                    f"Copiez {FIELDS[self.field]} de {source} vers {target}.",
                ]
            ),
        )
        why = self.say(
            french,
            f"{source} has {copied}. Set {target} to {copied}.",
            f"{source} a {copied}. Mettre {target} à {copied}.",
        )
        return [
            self.user(text, french),
            c.turn(
                self.say(french, f"Read {source} first.", f"Il faut lire {source} d'abord."),
                (self.get_a.name, {a.id_name: source}),
            ),
            c.result(self.get_a.name, value),
            *self.acting(self.set_a, target, why, {a.id_name: target, self.field: copied}, 1),
            self.done(target, "set", french),
        ]

    def missing_then_other(self, french: bool) -> list[Message]:
        c, a = self.corpus, self.a
        wrong, right, field = c.id_of(a), c.id_of(a), c.random.choice(a.fields)
        error = {"error": "not_found", "message": f"no {a.noun} {wrong}"}
        head: list[Message] = [
            c.turn(
                self.say(
                    french,
                    f"I need the {field} of {wrong}. Call {self.get_a.name}.",
                    f"Il faut {FIELDS[field]} de {wrong}. J'appelle {self.get_a.name}.",
                ),
                (self.get_a.name, {a.id_name: wrong}),
            ),
            c.result(self.get_a.name, error),
        ]
        if c.random.random() < 0.4:
            return [
                self.user(c.ask(a, wrong, field, french), french),
                *head,
                c.answer(
                    self.say(french, f"{wrong} was not found.", f"{wrong} est introuvable."),
                    self.say(french, f"There is no {a.noun} {wrong}.", f"{wrong} n'existe pas."),
                ),
            ]
        value = c.record(a, right)
        other = self.say(
            french,
            f" If it is not {wrong}, try {right}.",
            f" Si ce n'est pas {wrong}, essayez {right}.",
        )
        return [
            self.user(c.ask(a, wrong, field, french) + other, french),
            *head,
            c.turn(
                self.say(
                    french,
                    f"{wrong} was not found. Try {right}.",
                    f"{wrong} est introuvable. Essayer {right}.",
                ),
                (self.get_a.name, {a.id_name: right}),
                base=1,
            ),
            c.result(self.get_a.name, value, 1),
            self.tell(field, right, value[field], french),
        ]

    def second_turn(self, french: bool) -> list[Message]:
        c, a = self.corpus, self.a
        ident = c.id_of(a)
        first = self.read_one(french, ident)
        if c.random.random() < 0.4:
            ident = c.id_of(a)
            text = self.say(
                french,
                f"Now {self.verbs[0]} {ident} instead.",
                f"Maintenant, {ACTIONS[self.verbs[0]][1][0]} plutôt {ident}.",
            )
        else:
            text = self.say(
                french,
                f"Good, {self.verbs[0]} it now.",
                f"Bien, {ACTIONS[self.verbs[0]][1][0]} maintenant.",
            )
        why = self.say(
            french, f"The request is to {self.verbs[0]} {ident}.", f"Il faut agir sur {ident}."
        )
        return [
            *first,
            UserMessage(content=text),
            *self.acting(self.act_a, ident, why, {a.id_name: ident}, 1),
            self.done(ident, self.verbs[0], french),
        ]

    def small_talk(self, french: bool) -> list[Message]:
        c = self.corpus
        text = c.random.choice(
            ["Merci !", "Bonjour.", "Bonne journée.", "Ça va ?"]
            if french
            else ["Thanks!", "Hello.", "Have a nice day.", "How are you?"]
        )
        return [
            UserMessage(content=text),
            c.answer(
                self.say(french, "No tool is needed.", "Aucun outil n'est utile."),
                self.say(
                    french,
                    "You are welcome. Can I help with anything else?",
                    "Je vous en prie. Puis-je vous aider ?",
                ),
            ),
        ]
