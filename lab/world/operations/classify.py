"""Classification: a short answer (yes or no, or one of a few labels) about a word, a number, a pair or a sentence.

Operations that could be asked of the same kind of input share one source of inputs, so that the input alone
does not tell which question is meant; the labels of every operation are drawn equally often.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from lab.world.operations.operation import Operation

Source = Callable[[Random], str]


def _words(text: str, separator: str = " ") -> tuple[str, ...]:
    """A small table, written as one string."""
    return tuple(text.split(separator))


_VOWELS = "aeiou"
_CONSONANTS = "bcdfghklmnprstvz"

_WORDS = _words(
    "album amber apple arena angle autumn bread bridge castle circle cotton corner dinner dragon eagle echo edge elbow "
    "engine evening fabric finger forest garden guitar hammer harbor hotel idea igloo island iron jacket jungle kettle "
    "ladder lemon market mirror nose number object ocean olive onion orange oven pencil pilot planet quilt radio river "
    "rocket sailor shadow silver summer table tent thunder ticket tulip umbrella uncle unit velvet visitor "
    "window winter wolf zebra zero plum desk milk lamp ink oak egg ant fox hen cup"
)
_PALINDROMES = _words("level radar civic kayak rotor refer madam noon deed peep eye pop mum dad wow eve gag tot pup")

# singular-plural
_LIVING = _words(
    "cat-cats dog-dogs horse-horses cow-cows pig-pigs bird-birds lion-lions tiger-tigers bear-bears frog-frogs "
    "snake-snakes spider-spiders ant-ants bee-bees goat-goats duck-ducks eagle-eagles shark-sharks mouse-mice "
    "goose-geese rabbit-rabbits monkey-monkeys camel-camels tree-trees rose-roses oak-oaks daisy-daisies "
    "tulip-tulips child-children man-men woman-women baby-babies nurse-nurses farmer-farmers"
)
_OBJECTS = _words(
    "table-tables chair-chairs lamp-lamps spoon-spoons knife-knives fork-forks cup-cups plate-plates box-boxes "
    "key-keys clock-clocks hammer-hammers nail-nails brick-bricks coin-coins ring-rings phone-phones car-cars "
    "bus-buses bicycle-bicycles truck-trucks book-books pencil-pencils bottle-bottles brush-brushes shelf-shelves "
    "mirror-mirrors ladder-ladders wheel-wheels shoe-shoes hat-hats watch-watches candle-candles rope-ropes"
)
_HOT = _words(
    "fire, lava, oven, flame, sun, steam, boiling water, fresh coffee, hot tea, stove, desert, furnace, volcano, "
    "bonfire, toaster, sauna, campfire, burning coal, soup, torch, grill, iron, fireplace, radiator, candle flame",
    ", ",
)
_COLD = _words(
    "ice, snow, glacier, freezer, fridge, frost, iceberg, ice cream, snowman, icicle, blizzard, igloo, north pole, "
    "south pole, snowball, ice cube, sleet, hail, frozen lake, ice rink, snowflake, popsicle, avalanche, winter wind, "
    "frozen peas",
    ", ",
)
_INDOORS = _words(
    "sofa, carpet, bathtub, fridge, ceiling, kitchen, bedroom, wardrobe, pillow, bookshelf, bed, television, shower, "
    "cupboard, hallway, elevator, office, closet, stove, library, armchair, sink, curtain, classroom, toilet",
    ", ",
)
_OUTDOORS = _words(
    "forest, river, mountain, beach, meadow, road, desert, cloud, waterfall, lawn, lake, field, cliff, sidewalk, "
    "highway, jungle, volcano, ocean, orchard, pasture, swamp, campfire, pond, canyon, vineyard",
    ", ",
)
_MONTHS = _words(
    "Jan Feb Mar Apr Jun Jul Aug Sep Oct Nov Dec January February March April May June July August September October "
    "November December"
)
_DAYS = _words("Mon Tue Wed Thu Fri Sat Sun Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

# verb, its third person, its past, its object: eight a topic
_ACTIONS = {
    "sport": "play plays played football, play plays played tennis, kick kicks kicked the ball, win wins won the race, "
    "join joins joined the team, watch watches watched the match, run runs ran a marathon, "
    "score scores scored a goal",
    "food": "cook cooks cooked soup, bake bakes baked bread, eat eats ate an apple, order orders ordered pizza, "
    "taste tastes tasted the cheese, boil boils boiled two eggs, fry fries fried the fish, make makes made a salad",
    "weather": "watch watches watched the rain, fear fears feared the storm, feel feels felt the wind, "
    "see sees saw the fog, enjoy enjoys enjoyed the sunshine, hear hears heard the thunder, "
    "hate hates hated the snow, notice notices noticed the clouds",
    "money": "pay pays paid the bill, save saves saved ten dollars, count counts counted the coins, "
    "spend spends spent the cash, visit visits visited the bank, earn earns earned a salary, "
    "borrow borrows borrowed ten euros, owe owes owed the rent",
}
_TOPICS = {tuple(row.split(" ", 3)): topic for topic, rows in _ACTIONS.items() for row in rows.split(", ")}
_PERSONS = {"I": "first", "you": "second"} | dict.fromkeys(_words("he she Anna Tom Maria Jack Lucy Omar"), "third")

_REVIEWED = _words(
    "soup pizza food service hotel room film book song show staff bed music view trip game phone story meal place"
)
_GOOD = _words("great lovely superb amazing perfect wonderful excellent fantastic brilliant delightful")
_BAD = _words("awful terrible horrible dreadful boring useless disgusting bad poor disappointing")

_POLITE = ("Please", "Could you please", "Would you kindly", "Kindly", "If you please,")
_RUDE = ("Hey idiot,", "Listen, fool,", "You dummy,", "Shut up and", "Stupid,", "Move it, moron,")
_REQUESTS = _words(
    "call Tom, fix the sink, send the file, bring milk, wash the car, feed the cat, pay Anna, open the gate, "
    "clean up, sign the form, move the van, book a cab, lock up, mail the box, buy bread, fetch Leo",
    ", ",
)
_URGENT = ("right now", "at once", "immediately", "this second", "now")
_RELAXED = ("some day", "next month", "next year", "later", "sometime")

# subjects; verbs; objects
_LANGUAGES = {
    "english": "the cat, my brother, a woman, our friend, the boy; eats, sees, wants, buys, sells, has; "
    "the bread, an apple, a house, the water, cheese, two books",
    "french": "le chat, mon frere, une femme, notre ami, le fils; mange, voit, veut, achete, vend, a; "
    "le pain, une pomme, la maison, de l'eau, du fromage, deux livres",
    "spanish": "el gato, mi hermano, una mujer, nuestro amigo, el hijo; come, ve, quiere, compra, vende, tiene; "
    "el pan, una manzana, la casa, el agua, queso, dos libros",
    "german": "die katze, mein bruder, eine frau, unser freund, der junge; isst, sieht, will, kauft, verkauft, hat; "
    "das brot, einen apfel, ein haus, das wasser, den salat, zwei hefte",
}

_FORMAL = ("Good morning", "Good evening", "Good afternoon", "Greetings", "Welcome", "How do you do")
_TITLES = ("Mr", "Mrs", "Dr", "Professor", "Madam", "Sir")
_CASUAL = ("Hi", "Hey", "Yo", "Hiya", "What's up", "Hey there", "Sup", "Howdy")
_FAMILIAR = ("Tom", "Anna", "Leo", "Zoe", "buddy", "guys", "pal", "mate", "dude", "folks", "bro", "Mia")
_SURNAMES = _words("Smith Brown Clark Hill Jones King Lee Moore Reed Ross Scott Ward West Young")


def _yes(condition: bool) -> str:
    return "yes" if condition else "no"


def _invented(rng: Random) -> str:
    """A pronounceable made-up word of 3 to 9 letters."""
    syllables = "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 4)))
    return rng.choice(("", rng.choice(_VOWELS))) + syllables + rng.choice(_CONSONANTS)


def _string(rng: Random) -> str:
    """A word, real or made up, at times a palindrome, at times with a digit in it."""
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(_WORDS)
    if kind < 0.6:
        return _invented(rng)
    if kind < 0.8:
        if rng.random() < 0.3:
            return rng.choice(_PALINDROMES)
        half = _invented(rng)[: rng.randint(2, 4)]
        return half + half[-2::-1]
    word = rng.choice(_WORDS)
    place = rng.randint(1, len(word))
    return word[:place] + rng.choice("0123456789") + word[place:]


def _word_pair(rng: Random) -> str:
    first, second = rng.sample(_WORDS, 2)
    return f"{first} {second}"


def _number(rng: Random) -> str:
    return str(rng.randint(0, 99) if rng.random() < 0.5 else rng.randint(100, 999))


def _number_pair(rng: Random) -> str:
    first, second = rng.sample(range(1, 100), 2)
    return f"{first} {second}"


def _sentence_parts(rng: Random) -> tuple[str, dict[str, str]]:
    """A sentence about somebody's action and its type, topic, and (commands aside) tense and person."""
    row, topic = rng.choice(tuple(_TOPICS.items()))
    verb, verb_third, verb_past, thing = row
    subject, tense = rng.choice(("I", "you", rng.choice(tuple(_PERSONS)))), rng.choice(("past", "present", "future"))
    third = _PERSONS[subject] == "third"
    thing += rng.choice(("", "", " again", " at home", " in town", " today"))
    kind = rng.choice(("statement", "question", "command"))
    labels = {"type": kind, "topic": topic}
    if kind == "command":
        text = rng.choice((f"{verb} {thing}!", f"do not {verb} {thing}!"))
    else:
        labels |= {"tense": tense, "person": _PERSONS[subject]}
        auxiliary = {"past": "did", "present": "does" if third else "do", "future": "will"}[tense]
        plain = {"past": verb_past, "present": verb_third if third else verb, "future": f"will {verb}"}[tense]
        if kind == "question":
            text = f"{auxiliary} {subject} {verb} {thing}?"
        else:
            text = f"{subject} {rng.choice((plain, plain, f'{auxiliary} not {verb}'))} {thing}."
    return text[0].upper() + text[1:], labels


def _review(rng: Random, label: str) -> str:
    quality = rng.choice(_GOOD if label == "positive" else _BAD)
    thing, adverb = rng.choice(_REVIEWED), rng.choice(("", "", "really ", "so ", "just "))
    return rng.choice(
        (f"The {thing} was {adverb}{quality}.", f"My {thing} was {adverb}{quality}.", f"{quality.title()} {thing}!")
    )


def _message(rng: Random, opening: tuple[str, ...], ending: tuple[str, ...]) -> str:
    return f"{rng.choice(opening)} {rng.choice(_REQUESTS)} {rng.choice(ending)}."


def _manners(rng: Random, label: str) -> str:
    return _message(rng, _POLITE if label == "polite" else _RUDE, _URGENT + _RELAXED)


def _urgency(rng: Random, label: str) -> str:
    return _message(rng, _POLITE + _RUDE, _URGENT if label == "urgent" else _RELAXED)


def _foreign(rng: Random, label: str) -> str:
    return " ".join(rng.choice(words.strip().split(", ")) for words in _LANGUAGES[label].split(";"))


def _greeting(rng: Random, label: str) -> str:
    if label == "formal":
        return f"{rng.choice(_FORMAL)}, {rng.choice(_TITLES)} {rng.choice(_SURNAMES)}"
    return f"{rng.choice(_CASUAL)}, {rng.choice(_FAMILIAR)}{rng.choice(('', '!', ' :)'))}"


def _thing(rng: Random, label: str) -> str:
    return rng.choice(rng.choice(_LIVING if label == "living" else _OBJECTS).split("-"))


def _grammatical_number(rng: Random, label: str) -> str:
    return rng.choice(_LIVING + _OBJECTS).split("-")[label == "plural"]


def _judged(name: str, source: Source, judge: Callable[[str], str], labels: str = "yes no") -> Operation:
    """Inputs of ``source``, labelled by ``judge``: a label is drawn first, then inputs until one has it."""
    choices = labels.split()

    def draw(rng: Random) -> tuple[str, str]:
        label = rng.choice(choices)
        text = source(rng)
        while judge(text) != label:
            text = source(rng)
        return text, label

    return Operation(name, "classify", draw)


def _sentence(name: str, part: str, labels: str) -> Operation:
    """One label of the sentences about actions; sentences that have no such label are not drawn."""
    choices = labels.split()

    def draw(rng: Random) -> tuple[str, str]:
        label = rng.choice(choices)
        text, found = _sentence_parts(rng)
        while found.get(part) != label:
            text, found = _sentence_parts(rng)
        return text, label

    return Operation(name, "classify", draw, reveals=True)


def _made(
    name: str, make: Callable[[Random, str], str], labels: str, reveals: bool = False, closed: bool = False
) -> Operation:
    """An input made for a label that is drawn first."""
    choices = labels.split()

    def draw(rng: Random) -> tuple[str, str]:
        label = rng.choice(choices)
        return make(rng, label), label

    return Operation(name, "classify", draw, reveals=reveals, closed=closed)


def _sorted(name: str, **groups: tuple[str, ...]) -> Operation:
    """A closed table of words under their labels."""
    return _made(name, lambda rng, label: rng.choice(groups[label]), " ".join(groups), closed=True)


def _larger(text: str) -> str:
    first, second = map(int, text.split())
    return "first" if first > second else "second"


OPERATIONS: tuple[Operation, ...] = (
    _judged("starts-with-vowel", _string, lambda text: _yes(text[0] in _VOWELS)),
    _judged("ends-with-vowel", _string, lambda text: _yes(text[-1] in _VOWELS)),
    _judged("contains-letter-a", _string, lambda text: _yes("a" in text)),
    _judged("long-or-short", _string, lambda text: "long" if len(text) > 5 else "short", "long short"),
    _judged("is-palindrome", _string, lambda text: _yes(text == text[::-1])),
    _judged("contains-digit", _string, lambda text: _yes(any(char.isdigit() for char in text))),
    _judged("same-first-and-last", _string, lambda text: _yes(text[0] == text[-1])),
    _judged("same-length", _word_pair, lambda text: _yes(len(text.split()[0]) == len(text.split()[1]))),
    _judged("same-initial", _word_pair, lambda text: _yes(text.split()[0][0] == text.split()[1][0])),
    _judged("even-or-odd", _number, lambda text: "odd" if int(text) % 2 else "even", "even odd"),
    _judged("over-fifty", _number, lambda text: _yes(int(text) > 50)),
    _judged("larger-of-two", _number_pair, _larger, "first second"),
    _made("living-or-object", _thing, "living object", closed=True),
    _made("singular-or-plural", _grammatical_number, "singular plural", closed=True),
    _sorted("hot-or-cold", hot=_HOT, cold=_COLD),
    _sorted("indoors-or-outdoors", indoors=_INDOORS, outdoors=_OUTDOORS),
    _sorted("month-or-day", month=_MONTHS, day=_DAYS),
    _sentence("sentence-type", "type", "statement question command"),
    _sentence("sentence-tense", "tense", "past present future"),
    _sentence("sentence-topic", "topic", "sport food weather money"),
    _sentence("sentence-person", "person", "first second third"),
    _made("sentiment", _review, "positive negative", reveals=True),
    _made("polite-or-rude", _manners, "polite rude", reveals=True),
    _made("urgent-or-not", _urgency, "urgent calm", reveals=True),
    _made("language", _foreign, "english french spanish german", reveals=True),
    _made("formal-or-casual", _greeting, "formal casual", reveals=True),
)
