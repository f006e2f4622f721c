"""Dates in two house styles: accounts write 05.03.2024, the diary writes the 5th of March 2024.

Both are asked in the very same words, about the same companies, goods and cities; what is noted tells
which style is meant. Half of the test notes are worded as no other split's are.
"""

from __future__ import annotations

import datetime
import random

from examples.zoo.names import CITIES, COMPANIES

QUESTION = "Write the date in this note the way we write it.\n{note}"

GOODS = (
    "advertising catering cleaning heating insurance packaging printing software storage training "
    "translation transport"
)
MONTHS = "January February March April May June July August September October November December"
FIRST_DAY, LAST_DAY = datetime.date(2000, 1, 1), datetime.date(2029, 12, 31)

ACCOUNTS = (
    "Invoice {number} of {company} for {goods} is due on {date}.",
    "{company} billed us for {goods} on {date}.",
    "We paid {company} {amount} euros for {goods} on {date}.",
    "The bank sent {amount} euros to {company} on {date}.",
    "Receipt from {company}, {city}, {date}: {amount} euros for {goods}.",
    "{company} credits us {amount} euros for {goods} as of {date}.",
    "A reminder from {company}: {amount} euros for {goods} were payable on {date}.",
    "Our order for {goods} from {company} was charged on {date}.",
    "The {goods} in {city} cost {amount} euros and was booked on {date}.",
    "The account of {company} in {city} was settled on {date}.",
)
UNSEEN_ACCOUNTS = (
    "{company} has owed us {amount} euros for {goods} since {date}.",
    "On {date} the refund of {amount} euros for {goods} arrived.",
    "The deposit for {goods} went to {company} on {date}.",
    "The tax on {goods} in {city} falls due on {date}.",
)
DIARY = (
    "We meet {company} in {city} on {date} about {goods}.",
    "The workshop on {goods} in {city} is on {date}.",
    "{company} invites us to {city} on {date}.",
    "The talk about {goods} at {company} was moved to {date}.",
    "Our call with {company} about {goods} is on {date}.",
    "On {date} {company} shows us round its office in {city}.",
    "The team visits {company} in {city} on {date}.",
    "The party at {company} in {city} takes place on {date}.",
    "Minutes of the meeting with {company} on {goods}, {city}, {date}.",
    "The course on {goods} begins in {city} on {date}.",
)
UNSEEN_DIARY = (
    "A delegation of {company} comes to {city} on {date}.",
    "Lunch with {company} about {goods}, {city}, {date}.",
    "The interview with {company} about {goods} was held on {date}.",
    "{company} opens its doors to guests in {city} on {date}.",
)


def invoices(generator: random.Random, unseen: bool) -> tuple[str, str]:
    """A note of the accounts and its date in digits; ``unseen``: worded as training never is."""
    day = _day(generator)
    note = _note(generator, UNSEEN_ACCOUNTS if unseen else ACCOUNTS, day)
    return note, f"{day.day:02}.{day.month:02}.{day.year}"


def meetings(generator: random.Random, unseen: bool) -> tuple[str, str]:
    """A note of the diary and its date in words; ``unseen``: worded as training never is."""
    day = _day(generator)
    note = _note(generator, UNSEEN_DIARY if unseen else DIARY, day)
    return note, f"the {ordinal(day.day)} of {MONTHS.split()[day.month - 1]} {day.year}"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, … 11th, 12th, 13th, … 21st."""
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _day(generator: random.Random) -> datetime.date:
    return datetime.date.fromordinal(generator.randint(FIRST_DAY.toordinal(), LAST_DAY.toordinal()))


def _note(generator: random.Random, wordings: tuple[str, ...], day: datetime.date) -> str:
    """The question with a note on ``day``, the date written in one of three ways."""
    # Not strftime, whose months follow the locale.
    month = MONTHS.split()[day.month - 1]
    dates = (day.isoformat(), f"{month} {day.day}, {day.year}", f"{day.day} {month} {day.year}")
    note = generator.choice(wordings).format(
        date=generator.choice(dates),
        company=generator.choice(COMPANIES.split()),
        city=generator.choice(CITIES.split()),
        goods=generator.choice(GOODS.split()),
        amount=generator.randint(2, 99) * 10,
        number=generator.randint(1000, 9999),
    )
    return QUESTION.format(note=note)
