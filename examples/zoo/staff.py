"""People as records and as e-mail addresses: two tasks over the same sentences.

Only the instruction tells which is meant. Half of the test's instructions are worded as no other split's are.
"""

from __future__ import annotations

import json
import random
from typing import NamedTuple

from examples.zoo.names import CITIES, COMPANIES, FIRST_NAMES, LAST_NAMES

SENTENCES = (
    "{first} {last}, {age}, lives in {city} and works for {company}.",
    "{first} {last} from {city} is {age} years old and works at {company}.",
    "At {age}, {first} {last} of {city} joined {company}.",
    "{company} has hired {first} {last}, {age}, of {city}.",
    "{first} {last} ({age}, {city}) is with {company}.",
    "{company} employs {first} {last}, who is {age} and lives in {city}.",
    "{first} {last} moved to {city} at {age} to work for {company}.",
    "Meet {first} {last}: {age} years old, {company}, {city}.",
)
RECORD = (
    "Make a record of this person.",
    "Write this person's entry for our list.",
    "Enter this person in our files.",
)
UNSEEN_RECORD = ("Put this person into our register.", "What do we store about this person?")
ADDRESS = (
    "Make an address for this person.",
    "Write this person's e-mail for our list.",
    "Give this person an e-mail address.",
)
UNSEEN_ADDRESS = ("Set up a mailbox for this person.", "Where do we send mail for this person?")


class Person(NamedTuple):
    """Somebody who works somewhere."""

    first: str
    last: str
    age: int
    city: str
    company: str


def records(generator: random.Random, unseen: bool) -> tuple[str, str]:
    """A person to be entered, and one line of JSON; ``unseen``: asked as training never does."""
    person, sentence = _introduced(generator)
    record = {"name": f"{person.first} {person.last}", "age": person.age, "city": person.city}
    return f"{generator.choice(UNSEEN_RECORD if unseen else RECORD)}\n{sentence}", json.dumps(record)


def emails(generator: random.Random, unseen: bool) -> tuple[str, str]:
    """A person in need of an address, and the address; ``unseen``: asked as training never does."""
    person, sentence = _introduced(generator)
    # A domain that RFC 2606 keeps free.
    address = f"{person.first[0]}.{person.last}@{person.company}.example".lower()
    return f"{generator.choice(UNSEEN_ADDRESS if unseen else ADDRESS)}\n{sentence}", address


def _introduced(generator: random.Random) -> tuple[Person, str]:
    person = Person(
        generator.choice(FIRST_NAMES.split()),
        generator.choice(LAST_NAMES.split()),
        generator.randint(19, 67),
        generator.choice(CITIES.split()),
        generator.choice(COMPANIES.split()),
    )
    return person, generator.choice(SENTENCES).format(**person._asdict())
