"""Invented worlds: names, values, the relations that tie them together, and how people state and ask them.

Every invented name or value belongs to the training or to the held-out half of the world, by a hash of its text,
so that a held-out question never holds a name or a value that training has seen.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

HELD_OUT_OF = 10
"""One name in ten is held out."""

ONSETS = (
    *("b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kr", "l", "m", "n", "p", "pr", "qu"),
    *("r", "s", "sh", "st", "t", "th", "tr", "v", "w", "z"),
)
VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ia", "o", "a", "e", "i", "or", "ar", "el")
CODAS = ("", "", "n", "r", "l", "s", "m", "th", "x", "ck", "nd", "sk", "ra", "vin")
PLACE_ENDINGS = ("mere", "ton", "holm", "wick", "stead", "gard", "ford", "haven", "moor", "fell")
THINGS = (
    *("bridge", "tower", "library", "museum", "harbour", "mill", "theatre", "market", "garden", "ship"),
    *("bell", "clock", "statue", "engine", "observatory"),
)


def is_held_out(text: str) -> bool:
    """Whether a name or value belongs to the held-out half."""
    return zlib.crc32(text.encode()) % HELD_OUT_OF == 0


class World:
    """Draws names and values of one half of the world."""

    def __init__(self, seed: int, held_out: bool) -> None:
        self.random = random.Random(seed)
        self.held_out = held_out

    def draw(self, kind: str) -> str:
        """A name or value of this kind that belongs to this half."""
        while True:
            text = getattr(self, kind)()
            if is_held_out(text) == self.held_out:
                return str(text)

    def syllables(self, count: int) -> str:
        """A pronounceable invented word."""
        choose = self.random.choice
        return "".join(choose(ONSETS) + choose(VOWELS) + choose(CODAS) for _ in range(count)).capitalize()

    def person(self) -> str:
        """One or two invented names."""
        first = self.syllables(self.random.choice((1, 2, 2)))
        return first if self.random.random() < 0.7 else f"{first} {self.syllables(2)}"

    def place(self) -> str:
        """An invented town, island or river."""
        word = self.syllables(self.random.choice((1, 2)))
        return word + self.random.choice(PLACE_ENDINGS) if self.random.random() < 0.6 else word

    def word(self) -> str:
        """An invented common noun."""
        return self.syllables(2).lower()

    def number(self) -> str:
        """A whole number of two to four digits."""
        return str(self.random.randrange(10, 10 ** self.random.randrange(2, 5)))

    def year(self) -> str:
        """A year."""
        return str(self.random.randrange(1000, 2100))

    def code(self) -> str:
        """A code such as KX-482."""
        letters = "".join(self.random.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=2))
        return f"{letters}-{self.random.randrange(100, 1000)}"

    def thing(self) -> str:
        """Something that can stand in a place, with an invented name."""
        return f"the {self.random.choice(THINGS)} of {self.place()}"


@dataclass(frozen=True)
class Relation:
    """One kind of fact: {s} is the subject, {v} the value.

    A statement names its subject before its value: a causal network this small then finds the value behind the words
    of the question. Statements the other way round would need one more hop of attention.
    """

    subject: str
    value: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]


def relation(subject: str, value: str, statements: str, questions: str) -> Relation:
    """Statements and questions are separated by bars."""
    return Relation(subject, value, tuple(statements.split(" | ")), tuple(questions.split(" | ")))


RELATIONS = (
    relation("place", "person", "The mayor of {s} is {v}. | {s} has a mayor called {v}.",
             "Who is the mayor of {s}? | What is the name of the mayor of {s}?"),
    relation("place", "number", "{s} has {v} inhabitants. | The population of {s} is {v}.",
             "How many people live in {s}? | What is the population of {s}?"),
    relation("place", "year", "{s} was founded in {v}.",
             "When was {s} founded? | In which year was {s} founded?"),
    relation("person", "place", "{s} was born in {v}. | The birthplace of {s} is {v}.",
             "Where was {s} born? | What is the birthplace of {s}?"),
    relation("person", "place", "{s} lives in {v}. | The home of {s} is in {v}.",
             "Where does {s} live? | In which town does {s} live?"),
    relation("person", "number", "{s} is {v} years old. | The age of {s} is {v}.",
             "How old is {s}? | What is the age of {s}?"),
    relation("person", "code", "The door code of {s} is {v}. | {s} uses the door code {v}.",
             "What is the door code of {s}? | Which door code does {s} use?"),
    relation("person", "person", "{s} is married to {v}. | {s} married {v}.",
             "Who is {s} married to? | Who did {s} marry?"),
    relation("person", "person", "The teacher of {s} is {v}. | {s} learned everything from {v}.",
             "Who is the teacher of {s}? | Who taught {s}?"),
    relation("person", "word", "{s} sells {v}. | In the shop of {s} you can buy {v}.",
             "What does {s} sell? | What can you buy from {s}?"),
    relation("person", "word", "{s} likes to eat {v}. | The favourite food of {s} is {v}.",
             "What does {s} like to eat? | What is the favourite food of {s}?"),
    relation("person", "word", "{s} has a dog called {v}. | The dog of {s} is named {v}.",
             "What is the dog of {s} called? | What is the name of the dog of {s}?"),
    relation("thing", "year", "{s} was built in {v}. | Workers finished {s} in {v}.",
             "When was {s} built? | In which year was {s} finished?"),
    relation("thing", "person", "{s} was designed by {v}. | The architect of {s} was {v}.",
             "Who designed {s}? | Who was the architect of {s}?"),
    relation("thing", "number", "{s} is {v} metres high. | The height of {s} is {v} metres.",
             "How high is {s} in metres? | What is the height of {s} in metres?"),
    relation("thing", "number", "{s} cost {v} crowns.",
             "How many crowns did {s} cost? | What was the price of {s} in crowns?"),
    relation("thing", "word", "{s} is made of {v}.",
             "What is {s} made of? | Which material was used for {s}?"),
    relation("place", "place", "The road from {s} leads to {v}. | From {s} you can walk to {v}.",
             "Where does the road from {s} lead? | Where can you walk to from {s}?"),
    relation("place", "place", "{s} lies on the river {v}.",
             "On which river does {s} lie? | Which river flows through {s}?"),
    relation("place", "word", "{s} is known for its {v}. | People visit {s} for its {v}.",
             "What is {s} known for? | Why do people visit {s}?"),
    relation("place", "code", "The postal code of {s} is {v}. | Letters to {s} need the postal code {v}.",
             "What is the postal code of {s}? | Which postal code does {s} have?"),
    relation("person", "code", "{s} drives a car with the plate {v}. | The car of {s} has the plate {v}.",
             "What is the plate of the car of {s}? | Which plate does the car of {s} have?"),
    relation("person", "number", "{s} owns {v} books.",
             "How many books does {s} own? | How many books are in the house of {s}?"),
    relation("person", "year", "{s} died in {v}. | The life of {s} ended in {v}.",
             "When did {s} die? | In which year did {s} die?"),
    relation("person", "person", "{s} works for {v}. | The boss of {s} is {v}.",
             "Who does {s} work for? | Who is the boss of {s}?"),
    relation("person", "place", "{s} keeps a boat in {v}. | The boat of {s} lies in {v}.",
             "Where does {s} keep a boat? | Where is the boat of {s}?"),
    relation("person", "word", "{s} plays the {v}. | The instrument of {s} is the {v}.",
             "Which instrument does {s} play? | What does {s} play?"),
    relation("place", "person", "{s} was named after {v}. | The name of {s} comes from {v}.",
             "Who was {s} named after? | Where does the name of {s} come from?"),
    relation("place", "number", "{s} lies {v} metres above the sea. | The height of {s} above the sea is {v} metres.",
             "How many metres above the sea is {s}? | How high above the sea does {s} lie?"),
    relation("thing", "code", "The key to {s} is marked {v}. | {s} is opened with key {v}.",
             "How is the key to {s} marked? | Which key opens {s}?"),
)  # fmt: skip

FILLER = (
    "The weather was good that day.", "Nobody knows why.", "This is written in an old book.", "Many travellers say so.",
    "The evenings there are long and quiet.", "It is a story that children like.", "That has not changed for years.",
    "There is more to tell.", "Some people doubt it.", "Everyone in the region knows this.",
)  # fmt: skip

ANSWER = "It is {v}."
"""A sentence, so that the value has a space in front as in the passage, and the same tokens."""
UNKNOWN = "It is not in the text."
"""Begins like an answer: whether there is one is then decided where the network looks it up. As "Not in the text." it
was decided two words earlier, and 5 million tokens taught the network no more than how often that happens."""


@dataclass(frozen=True)
class Fact:
    """A relation between a subject and a value."""

    relation: Relation
    subject: str
    value: str


def capital(sentence: str) -> str:
    """The sentence with a capital first letter."""
    return sentence[0].upper() + sentence[1:]


def make_facts(world: World, count: int) -> list[Fact]:
    """Facts in which subjects and relations recur, so that neither alone gives the answer away."""
    draw, choose = world.draw, world.random.choice
    kinds = ("place", "person", "thing")
    subjects = [(kind, draw(kind)) for kind in world.random.choices(kinds, (3, 4, 2), k=max(2, count // 2))]
    facts: list[Fact] = []
    used: set[tuple[str, int]] = set()
    while len(facts) < count:
        kind, subject = choose(subjects)
        if facts and world.random.random() < 0.4:  # the relation of an earlier fact, another subject
            chosen = choose(facts).relation
            subject = draw(chosen.subject)
        else:
            chosen = choose([item for item in RELATIONS if item.subject == kind])
        if (subject, RELATIONS.index(chosen)) in used:
            continue
        used.add((subject, RELATIONS.index(chosen)))
        facts.append(Fact(chosen, subject, draw(chosen.value)))
    return facts


def passage(world: World, facts: list[Fact]) -> str:
    """The facts as sentences, with an idle one here and there."""
    sentences: list[str] = []
    for fact in facts:
        statement = world.random.choice(fact.relation.statements)
        sentences.append(capital(statement.format(s=fact.subject, v=fact.value)))
        if world.random.random() < 0.12:
            sentences.append(world.random.choice(FILLER))
    return " ".join(sentences)


def question(world: World, facts: list[Fact], unanswerable: bool) -> tuple[str, str]:
    """A question about the facts with its answer; an unanswerable one crosses a subject with a foreign relation."""
    choose = world.random.choice
    if not unanswerable:
        fact = choose(facts)
        return choose(fact.relation.questions).format(s=fact.subject), ANSWER.format(v=fact.value)
    while True:
        known = choose(facts)
        chosen = choose(RELATIONS)
        subject = known.subject if world.random.random() < 0.7 else world.draw(chosen.subject)
        same_kind = subject != known.subject or chosen.subject == known.relation.subject
        stated = any(fact.subject == subject and fact.relation == chosen for fact in facts)
        if same_kind and not stated:
            return choose(chosen.questions).format(s=subject), UNKNOWN
