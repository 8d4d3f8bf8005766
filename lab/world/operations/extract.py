"""Extraction: an input in a known format (a sentence, an email, a date, a path) and the part of it that is asked for.

Every format is drawn by one function that returns the text and its named parts; the operations on a format
share that function, so the input shows the format and not which part is wanted. Parts are copied as written.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from lab.world.operations.operation import Operation

Parts = dict[str, str]


def _words(text: str, separator: str = " ") -> tuple[str, ...]:
    """A small table, written as one string."""
    return tuple(text.split(separator))


_NAMES = _words(
    "Anna Bob Carl Dana Emma Eve Fred Gina Hugo Ivan Jack Jane John Karl Lara Leo Lily Lucy Mark Mary Mia Nina Noah "
    "Olga Omar Paul Pete Rosa Ruth Sam Sara Tina Tom Vera Will Zoe"
)
_SURNAMES = _words(
    "Adams Baker Bell Brown Clark Cole Cook Cruz Davis Evans Ford Fox Gray Green Hall Hill Hunt Jones King Lane Lee "
    "Long Lopez Miller Moore Nash Perry Price Reed Ross Scott Smith Stone Todd Turner Walker Ward West Wood Young"
)
_ITEMS = _words(
    "apples bags balls books boxes caps cards chairs clocks coats coins cups dolls eggs forks hats keys kites lamps "
    "lemons maps masks pears pens plates ropes rings shirts shoes socks spoons tents toys"
)
_CITIES = _words(
    "Athens Berlin Boston Cairo Delhi Dublin Geneva Lima Lisbon London Madrid Miami Milan Moscow Munich Oslo Paris "
    "Prague Rome Seoul Sydney Tokyo Vienna Warsaw"
)
_DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_KEYS = _words(
    "age city code color cost count day depth font height lang level limit mode month name port rate role room shape "
    "size speed state theme type unit user weight width"
)
_VALUES = _words(
    "auto basic big blue dark east fast flat free full gold green high large left light low north off old open pink "
    "plain quick red round short slow small soft solid south tall thin warm west white wide"
)
_SITES = _words("acme bank blue city farm fast game home lake mail moon news nova park post shop star team tree wood")
_ENDINGS = _words("com org net edu info co")
_PAGES = _words("about blog cart contact events faq gallery help jobs list login map menu music offers prices search")
_FOLDERS = _words("backup books code data desk docs home images letters music notes old photos src tax temp trips work")
_FILES = _words("budget cover draft essay index invoice letter list log main notes plan poem readme report song table")
_EXTENSIONS = _words("txt pdf csv doc jpg png mp3 zip py html xml json")
_PRODUCTS = _words(
    "beans bread butter cheese coffee corn dates figs fish flour grapes ham honey jam juice lentils milk nuts oats oil "
    "olives onions pasta peas plums rice salt sugar tea tuna"
)
_UNITS = _words("kg g lb l oz bags boxes cans jars packs")
_CAPITALS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def _purchase_parts(rng: Random) -> Parts:
    person, item, city, day = (rng.choice(table) for table in (_NAMES, _ITEMS, _CITIES, _DAYS))
    return {"person": person, "number": str(rng.randint(2, 40)), "item": item, "city": city, "day": day}


def _purchase(rng: Random) -> tuple[str, Parts]:
    parts = _purchase_parts(rng)
    verb = rng.choice(("bought", "sold", "lost", "found"))
    return "{person} {verb} {number} {item} in {city} on {day}".format(verb=verb, **parts), parts


def _sale_row(rng: Random) -> tuple[str, Parts]:
    parts = _purchase_parts(rng)
    return "{day};{city};{person};{number};{item}".format(**parts), parts


def _sale_note(rng: Random) -> tuple[str, Parts]:
    parts = _purchase_parts(rng)
    return "{city}, {day}: {item} x{number} ({person})".format(**parts), parts


def _setting(rng: Random) -> tuple[str, Parts]:
    key = rng.choice(_KEYS)
    value = str(rng.randint(1, 99)) if rng.random() < 0.3 else rng.choice(_VALUES)
    return f"{key}={value}", {"key": key, "value": value}


def _variables(rng: Random) -> tuple[str, Parts]:
    keys = ["a", "b", *rng.sample("cdxyz", rng.randint(0, 2))]
    rng.shuffle(keys)
    values = {key: str(rng.randint(0, 99)) for key in keys}
    return ";".join(f"{key}={values[key]}" for key in keys), values


def _email(rng: Random) -> tuple[str, Parts]:
    first, last = rng.choice(_NAMES).lower(), rng.choice(_SURNAMES).lower()
    user = rng.choice((first, f"{first}.{last}", f"{first}{rng.randint(1, 99)}", f"{first[0]}.{last}"))
    domain = f"{rng.choice(_SITES)}.{rng.choice(_ENDINGS)}"
    return f"{user}@{domain}", {"user": user, "domain": domain}


def _time(rng: Random) -> tuple[str, Parts]:
    hour, minutes = str(rng.randint(0, 23)), f"{rng.randint(0, 59):02d}"
    return f"{hour}:{minutes}", {"hour": hour, "minutes": minutes}


def _date(rng: Random) -> tuple[str, Parts]:
    year, month, day = str(rng.randint(1900, 2049)), f"{rng.randint(1, 12):02d}", f"{rng.randint(1, 28):02d}"
    return f"{year}-{month}-{day}", {"year": year, "month": month, "day": day}


def _us_date(rng: Random) -> tuple[str, Parts]:
    _, parts = _date(rng)
    return "{month}/{day}/{year}".format(**parts), parts


def _record(rng: Random) -> tuple[str, Parts]:
    surname, first, age = rng.choice(_SURNAMES), rng.choice(_NAMES), str(rng.randint(6, 95))
    return f"{surname}, {first} ({age})", {"surname": surname, "first": first, "age": age}


def _path(rng: Random) -> tuple[str, Parts]:
    folder, extension = rng.choice(_FOLDERS), rng.choice(_EXTENSIONS)
    file = rng.choice(_FILES) + (str(rng.randint(1, 9)) if rng.random() < 0.3 else "")
    return f"{folder}/{file}.{extension}", {"folder": folder, "file": file, "extension": extension}


def _price_line(rng: Random) -> tuple[str, Parts]:
    quantity, product, price = str(rng.randint(2, 60)), rng.choice(_PRODUCTS), f"${rng.randint(1, 99)}"
    text = f"{quantity} {rng.choice(_UNITS)} {product} {price}"
    return text, {"quantity": quantity, "product": product, "price": price}


def _header(rng: Random) -> tuple[str, Parts]:
    sender, recipient = rng.sample(_NAMES, 2)
    lines = [f"From: {sender}", f"To: {recipient}"]
    rng.shuffle(lines)
    return " ".join(lines), {"sender": sender, "recipient": recipient}


def _code(rng: Random) -> tuple[str, Parts]:
    letters = "".join(rng.choices(_CAPITALS, k=rng.randint(2, 3)))
    suffix = rng.choice(_CAPITALS)
    return f"{letters}-{rng.randint(10, 9999)}-{suffix}", {"letters": letters, "suffix": suffix}


def _url(rng: Random) -> tuple[str, Parts]:
    host = f"www.{rng.choice(_SITES)}{rng.choice(('', *_SITES))}.{rng.choice(_ENDINGS)}"
    page = rng.choice(_PAGES)
    return f"{host}/{page}", {"host": host, "page": page}


def _part(name: str, source: Callable[[Random], tuple[str, Parts]], part: str) -> Operation:
    """The operation that answers with one named part of the text that ``source`` draws."""

    def draw(rng: Random) -> tuple[str, str]:
        text, parts = source(rng)
        return text, parts[part]

    return Operation(name, "extract", draw, reveals=True)


OPERATIONS: tuple[Operation, ...] = (
    _part("purchase-person", _purchase, "person"),
    _part("purchase-number", _purchase, "number"),
    _part("purchase-item", _purchase, "item"),
    _part("purchase-city", _purchase, "city"),
    _part("purchase-day", _purchase, "day"),
    *(_part(f"sale-row-{part}", _sale_row, part) for part in ("person", "number", "item", "city", "day")),
    *(_part(f"sale-note-{part}", _sale_note, part) for part in ("person", "number", "item", "city", "day")),
    _part("setting-key", _setting, "key"),
    _part("setting-value", _setting, "value"),
    _part("value-of-a", _variables, "a"),
    _part("value-of-b", _variables, "b"),
    _part("email-user", _email, "user"),
    _part("email-domain", _email, "domain"),
    _part("time-hour", _time, "hour"),
    _part("time-minutes", _time, "minutes"),
    _part("date-year", _date, "year"),
    _part("date-month", _date, "month"),
    _part("date-day", _date, "day"),
    *(_part(f"us-date-{part}", _us_date, part) for part in ("year", "month", "day")),
    _part("record-first-name", _record, "first"),
    _part("record-surname", _record, "surname"),
    _part("record-age", _record, "age"),
    _part("path-folder", _path, "folder"),
    _part("path-file", _path, "file"),
    _part("path-extension", _path, "extension"),
    _part("line-quantity", _price_line, "quantity"),
    _part("line-product", _price_line, "product"),
    _part("line-price", _price_line, "price"),
    _part("mail-sender", _header, "sender"),
    _part("mail-recipient", _header, "recipient"),
    _part("code-letters", _code, "letters"),
    _part("code-suffix", _code, "suffix"),
    _part("url-host", _url, "host"),
    _part("url-page", _url, "page"),
)
