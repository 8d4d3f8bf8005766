"""Tasks whose descriptions hold a word that decides the answer: add this word, look for that one, call it so.

Each operation comes with many words. Some operations are held out as a whole, and of every other one the last words are
validation: there the operation is known and the words are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from lab import content
from lab.tasks import Draw, EverydayTask, Split

VALIDATION_EACH = 1
"""Of each training operation, how many tasks validate: a known operation with unseen words."""
Words = dict[str, str]
"""Slot -> the word that a task has there."""


@dataclass(frozen=True)
class Operation:
    """An operation with a slot for words.

    Args:
        name: unique.
        tasks: how many tasks are made of it.
        choose: the words of one task.
        draw: the words of a task -> how its examples are drawn.
        wordings: with slots; the last two are kept for evaluation.
        split: of all its tasks; of training operations the last one is for validation.
    """

    name: str
    tasks: int
    choose: Callable[[Random], Words]
    draw: Callable[[Words], Draw]
    wordings: tuple[str, ...]
    split: Split = "train"


def parametric_tasks(seed: int = 0) -> list[EverydayTask]:
    """All tasks of all operations."""
    found = []
    for operation in OPERATIONS:
        rng = Random(f"{seed}/{operation.name}")
        seen: set[tuple[str, ...]] = set()
        while len(seen) < operation.tasks:
            chosen = operation.choose(rng)
            if (key := tuple(chosen.values())) in seen:
                continue
            seen.add(key)
            number = len(seen)
            split = operation.split
            if split == "train" and number > operation.tasks - VALIDATION_EACH:
                split = "validation"
            lines = tuple(wording.format(**chosen) for wording in operation.wordings)
            found.append(
                EverydayTask(
                    name=f"words_{operation.name}_{number}",
                    family=f"words {operation.name}",
                    definition=lines[0],
                    descriptions=lines[:-2],
                    evaluation=lines[-2:],
                    draw=operation.draw(chosen),
                    split=split,
                )
            )
    return found


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


def _word(rng: Random) -> Words:
    return {"x": rng.choice(content.COMMON_WORDS)}


def _two_words(rng: Random) -> Words:
    x, y = rng.sample(content.COMMON_WORDS, 2)
    return {"x": x, "y": y}


def _of(values: Sequence[str]) -> Callable[[Random], Words]:
    return lambda rng: {"x": rng.choice(values)}


def _text(rng: Random) -> str:
    return rng.choice(
        (content.sentence(rng), rng.choice(content.NOUNS), " ".join(content.items(rng, 2, 3)), content.phrase(rng))
    )


# --- texts with a word added ------------------------------------------------------------------------------------------


def _around(form: str) -> Callable[[Words], Draw]:
    def draw(chosen: Words) -> Draw:
        def one(rng: Random) -> tuple[str, str]:
            text = _text(rng)
            return text, form.format(text=text, **chosen)

        return one

    return draw


def _constant(chosen: Words) -> Draw:
    return lambda rng: (_text(rng), chosen["x"])


_REPLIES = content.words("""
    Yes of course, Not today, Thank you, I am busy, Call me later, Please wait, See you soon, No comment, Out of office, Try again, Well done,
    Good luck, It depends, Who knows, Ask my boss, Never mind, Keep going, Sounds good, All clear, Access denied, Order received, We are closed
    """, ",")  # fmt: skip
_SIGNS = ("~", "%%", "==", "$$", "++", "@@", "^", "::", "<>", "||", "__", "&&", "//", "!!", "..", ";;", "??", "--")
_JOINTS = (
    " / ",
    " - ",
    " + ",
    " :: ",
    " ~ ",
    " and ",
    " or ",
    " then ",
    " > ",
    " = ",
    " & ",
    " plus ",
    " vs ",
    " | ",
    " * ",
    " but ",
)


def _joint_words(rng: Random) -> Words:
    return {"x": rng.choice(_JOINTS).strip()}


def _joined(chosen: Words) -> Draw:
    def one(rng: Random) -> tuple[str, str]:
        things = content.items(rng, 2, 5)
        return ", ".join(things), f" {chosen['x']} ".join(things)

    return one


_FRAMES = content.words("""
    I like ___ very much.;My favorite thing is ___.;Have you seen the ___?;There is a ___ in my room.;Please bring ___ tomorrow.;I dreamed about ___ last night.;
    We ran out of ___ again.;Nobody talks about ___ anymore.;___ is on sale today.;Could I have ___ please?;The story begins with ___.;Beware of ___!;
    Mom bought ___ for my birthday.;I will never forget ___.;___ costs ten dollars.;What do you think of ___?;They lost ___ at the station.;Everything about ___ is great.;
    Open the box and take out ___.;She wrote a poem about ___.;Welcome to the world of ___!;Today's topic is ___.;I would trade my car for ___.;Chapter one: ___
    """, ";")  # fmt: skip


def _filled(chosen: Words) -> Draw:
    def one(rng: Random) -> tuple[str, str]:
        kind = rng.choice(tuple(content.LISTS))
        thing = rng.choice(
            (rng.choice(content.LISTS[kind]), rng.choice(content.NOUNS), rng.choice(content.COMMON_WORDS))
        )
        return thing, chosen["x"].replace("___", thing)

    return one


_HELLOS = content.words("Hi,Hello,Welcome,Good day,Ahoy,Greetings,Howdy,Good evening,Hey there,Nice to see you,Goodbye,Well done,Happy birthday,Thank you,Good luck,Get well soon", ",")  # fmt: skip


def _greeted(chosen: Words) -> Draw:
    def one(rng: Random) -> tuple[str, str]:
        first, last = content.full_name(rng)
        name = rng.choice((first, f"{first} {last}"))
        return name, f"{chosen['x']}, {name}!"

    return one


_THINGS = content.words("apples boxes dollars points pages miles pounds liters people years tickets steps books coins seats stars bottles letters goals votes")  # fmt: skip


def _with_unit(chosen: Words) -> Draw:
    def one(rng: Random) -> tuple[str, str]:
        number = str(rng.randint(2, 999))
        return number, f"{number} {chosen['x']}"

    return one


# --- texts with a word changed ----------------------------------------------------------------------------------------


def _letters(rng: Random) -> Words:
    x, y = rng.sample("aeioulnrst", 2)
    return {"x": x, "y": y}


def _letter(rng: Random) -> Words:
    return {"x": rng.choice("aeioulnrst")}


def _with_letter(rng: Random, letter: str) -> str:
    while True:
        word = rng.choice((*content.NOUNS, *content.ADJECTIVES, *content.COMMON_WORDS))
        if letter in word:
            return word


def _letter_replaced(chosen: Words) -> Draw:
    def one(rng: Random) -> tuple[str, str]:
        word = _with_letter(rng, chosen["x"])
        return word, word.replace(chosen["x"], chosen["y"])

    return one


def _letter_removed(chosen: Words) -> Draw:
    def one(rng: Random) -> tuple[str, str]:
        word = _with_letter(rng, chosen["x"])
        return word, word.replace(chosen["x"], "")

    return one


def _name_replaced(chosen: Words) -> Draw:
    def one(rng: Random) -> tuple[str, str]:
        name = rng.choice([name for name in content.FIRST_NAMES if name != chosen["x"]])
        text = rng.choice(
            (
                "{n} lost the keys.",
                "I met {n} in {p}.",
                "Yesterday {n} called me.",
                "{n} is late again.",
                "Have you seen {n}?",
                "{n} went to {p}.",
                "This is {n}, my friend.",
            )
        )
        text = text.replace("{p}", rng.choice(content.PLACES))
        return text.format(n=name), text.format(n=chosen["x"])

    return one


def _first_item_replaced(chosen: Words) -> Draw:
    def one(rng: Random) -> tuple[str, str]:
        things = content.items(rng, 3, 5)
        return ", ".join(things), ", ".join([*things[:-1], chosen["x"]])

    return one


def _item_inserted(chosen: Words) -> Draw:
    def one(rng: Random) -> tuple[str, str]:
        things = content.items(rng, 2, 5)
        return ", ".join(things), ", ".join([*things, chosen["x"]])

    return one


# --- questions about a word -------------------------------------------------------------------------------------------


def _mentions(pool: Sequence[str], form: Sequence[str]) -> Callable[[Words], Draw]:
    def draw(chosen: Words) -> Draw:
        def one(rng: Random) -> tuple[str, str]:
            yes = rng.random() < 0.5
            word = chosen["x"] if yes else rng.choice([other for other in pool if other != chosen["x"]])
            text = rng.choice(form).format(
                w=word, n=rng.choice(content.FIRST_NAMES), d=rng.choice(content.DAYS), m=rng.choice(content.MONTHS)
            )
            return text, "yes" if yes else "no"

        return one

    return draw


_CITY_TEXTS = ("{n} flew to {w} on {d}.", "The office in {w} is closed in {m}.", "{n} comes from {w}.", "It rains in {w}.", "On {d} the train to {w} was late.", "{n} and I will meet in {w}.", "My aunt in {w} has a shop.", "In {m} it is warm in {w}.")  # fmt: skip
_FIELDS = content.words(
    "name city job age color size price weight phone date owner status country floor room speed team brand model grade"
)


def _field(chosen: Words) -> Draw:
    def value(rng: Random, key: str) -> str:
        pools = {"name": content.FIRST_NAMES, "owner": content.FIRST_NAMES, "city": content.LISTS["city"], "job": content.LISTS["job"], "color": content.LISTS["color"], "country": content.LISTS["country"], "size": ("small", "large", "medium"), "status": ("open", "closed", "paid", "new"), "brand": content.COMPANIES}  # fmt: skip
        return rng.choice(pools[key]) if key in pools else str(rng.randint(1, 500))

    def one(rng: Random) -> tuple[str, str]:
        keys = [*rng.sample([key for key in _FIELDS if key != chosen["x"]], rng.randint(2, 3)), chosen["x"]]
        rng.shuffle(keys)
        record = {key: value(rng, key) for key in keys}
        form, joint = rng.choice((("{k}: {v}", "; "), ("{k}={v}", ", "), ("{k}: {v}", "\n"), ("{k} = {v}", " | ")))
        return joint.join(form.format(k=k, v=v) for k, v in record.items()), record[chosen["x"]]

    return one


def _initial_kept(chosen: Words) -> Draw:
    def one(rng: Random) -> tuple[str, str]:
        pool = (*content.NOUNS, *content.COMMON_WORDS)
        fit = rng.sample([word for word in pool if word[0] == chosen["x"]], rng.randint(1, 2))
        other = rng.sample([word for word in pool if word[0] != chosen["x"]], rng.randint(2, 3))
        shown = list(dict.fromkeys(rng.sample(fit + other, len(fit + other))))
        return ", ".join(shown), ", ".join(word for word in shown if word[0] == chosen["x"])

    return one


def _kind_kept(chosen: Words) -> Draw:
    def one(rng: Random) -> tuple[str, str]:
        kind = _KINDS[chosen["x"]]
        fit = rng.sample(content.LISTS[kind], rng.randint(1, 2))
        other = [
            rng.choice(content.LISTS[name])
            for name in rng.sample([name for name in _KINDS.values() if name != kind], 3)
        ]
        shown = rng.sample(fit + other, len(fit) + len(other))
        return ", ".join(shown), ", ".join(thing for thing in shown if thing in fit)

    return one


_KINDS = {"animals": "animal", "tools": "tool", "cities": "city", "musical instruments": "instrument", "jobs": "job", "pieces of clothing": "clothes", "vegetables": "vegetable", "sports": "sport"}  # fmt: skip


def _letter_counted(chosen: Words) -> Draw:
    def one(rng: Random) -> tuple[str, str]:
        word = _with_letter(rng, chosen["x"]) if rng.random() < 0.7 else rng.choice(content.COMMON_WORDS)
        return word, str(word.count(chosen["x"]))

    return one


# --- labels that the description names --------------------------------------------------------------------------------

_TESTS: tuple[tuple[str, str, Callable[[str], bool], Callable[[Random], str]], ...] = (
    ("is a question", "is not", lambda text: text.endswith("?"), lambda rng: content.proper(content.sentence(rng), rng.choice("?."))),
    ("has more than five words", "has five words or fewer", lambda text: len(text.split()) > 5, lambda rng: content.sentence(rng)),
    ("holds a number", "holds none", lambda text: any(letter.isdigit() for letter in text), lambda rng: f"{rng.choice(content.FIRST_NAMES)} has {rng.choice((str(rng.randint(2, 90)), 'many', 'some', str(rng.randint(2, 9))))} {rng.choice(_THINGS)}"),
    ("is an even number", "is an odd number", lambda text: int(text) % 2 == 0, lambda rng: str(rng.randint(1, 300))),
    ("is over 100", "is not", lambda text: int(text) > 100, lambda rng: str(rng.randint(1, 200))),
    ("names an animal", "names a city", lambda text: text in content.LISTS["animal"], lambda rng: rng.choice((*content.LISTS["animal"], *content.LISTS["city"][:18]))),
    ("names a fruit", "names a tool", lambda text: text in content.LISTS["fruit"], lambda rng: rng.choice((*content.LISTS["fruit"], *content.LISTS["tool"]))),
    ("is a man's name", "is a woman's name", lambda text: text in content.MALE, lambda rng: rng.choice((*content.MALE, *content.FEMALE))),
    ("is written in capitals", "is not", str.isupper, lambda rng: rng.choice((str.upper, str.lower))(content.phrase(rng))),
    ("starts with a vowel", "starts with a consonant", lambda text: text[0] in "aeiou", lambda rng: rng.choice(content.COMMON_WORDS)),
    ("is a weekday or month", "is something to eat", lambda text: text in (*content.DAYS, *content.MONTHS), lambda rng: rng.choice((*content.DAYS, *content.MONTHS, *content.LISTS["fruit"]))),
    ("is a list with commas", "is one thing alone", lambda text: "," in text, lambda rng: ", ".join(content.items(rng, *rng.choice(((1, 1), (2, 4)))))),
    ("is about the weather", "is about money", lambda text: text in _WEATHER, lambda rng: rng.choice((*_WEATHER, *_MONEY))),
    ("praises something", "complains", lambda text: text in _PRAISE, lambda rng: rng.choice((*_PRAISE, *_COMPLAINTS))),
)  # fmt: skip
_WEATHER = ("It is raining again.", "The sun is shining.", "Snow fell all night.", "A storm is coming.", "It is foggy outside.", "What a cold wind!", "The sky is clear today.", "It will be hot tomorrow.", "The ice is melting.", "Thunder woke me up.", "Bring an umbrella.", "It is freezing.")  # fmt: skip
_MONEY = ("I paid the bill.", "The bank is closed.", "She earns a good salary.", "He owes me ten euros.", "The price went up.", "We saved a lot this month.", "Can you lend me five dollars?", "The rent is due.", "I lost my wallet.", "They asked for a loan.", "My account is empty.", "He won the lottery.")  # fmt: skip
_PRAISE = ("I love this place.", "What a great meal!", "The staff was so kind.", "Best movie of the year.", "It works perfectly.", "I am very happy with it.", "Beautiful design!", "Five stars from me.", "I would buy it again.", "Wonderful service.")  # fmt: skip
_COMPLAINTS = ("I hate this place.", "What a bad meal!", "The staff was so rude.", "Worst movie of the year.", "It never works.", "I am very unhappy with it.", "Ugly design!", "One star from me.", "I want my money back.", "Terrible service.")  # fmt: skip

_SAID = frozenset((*_WEATHER, *_MONEY, *_PRAISE, *_COMPLAINTS))


def _labelled_words(rng: Random) -> Words:
    test = rng.randrange(len(_TESTS))
    x, y = rng.sample(content.COMMON_WORDS, 2)
    if rng.random() < 0.3:
        x, y = x.upper(), y.upper()
    elif rng.random() < 0.2:
        x, y = f"{x} {rng.choice(content.COMMON_WORDS)}", f"{y} {rng.choice(content.COMMON_WORDS)}"
    return {"x": x, "y": y, "yes": _TESTS[test][0], "no": _TESTS[test][1], "test": str(test)}


def _labelled(chosen: Words) -> Draw:
    _, _, judge, source = _TESTS[int(chosen["test"])]

    def one(rng: Random) -> tuple[str, str]:
        wanted = rng.random() < 0.5
        while judge(text := source(rng)) != wanted:
            pass
        if text in _SAID:
            text = rng.choice(("{t}", "{t}", "{n}: {t}", "{n} said: {t}", "Note: {t}")).format(
                t=text, n=rng.choice(content.FIRST_NAMES)
            )
        return text, chosen["x"] if wanted else chosen["y"]

    return one


def _code_words(rng: Random) -> Words:
    kind = rng.choice(("color", "fruit", "animal", "job", "tool", "drink", "sport"))
    keys = rng.sample(content.LISTS[kind], 3)
    answers = rng.sample(content.COMMON_WORDS, 3)
    return {**{f"k{n}": key for n, key in enumerate(keys)}, **{f"a{n}": answer for n, answer in enumerate(answers)}}


_CARRIERS = ("{k}", "{k}", "the {k}", "I see {k}", "{k} please", "my word is {k}", "it says {k}", "{k}?", "now: {k}", "next is {k}", "{K}", "today {k}", "one more {k}", "here: {k}", "{k}!", "they chose {k}", "{k} again", "what about {k}", "number one: {k}", "{n} picked {k}", "{n} said {k}")  # fmt: skip


def _coded(chosen: Words) -> Draw:
    def one(rng: Random) -> tuple[str, str]:
        place = rng.randrange(3)
        key = chosen[f"k{place}"]
        text = rng.choice(_CARRIERS).format(k=key, K=key.upper(), n=rng.choice(content.FIRST_NAMES))
        return text, chosen[f"a{place}"]

    return one


def _in_list(chosen: Words) -> Draw:
    def one(rng: Random) -> tuple[str, str]:
        there = rng.random() < 0.5
        things = rng.sample([word for word in content.COMMON_WORDS if word not in chosen.values()], rng.randint(3, 5))
        if there:
            things[rng.randrange(len(things))] = chosen["x"]
        return ", ".join(things), chosen["x"] if there else chosen["y"]

    return one


OPERATIONS: tuple[Operation, ...] = (
    Operation("append_word", 14, _word, _around("{text} {x}"), _lines("""
        Write the text and then the word {x}.
        Add {x} at the end.
        + {x}
        Put the word "{x}" after what I write.
        Repeat my text, then say {x}.
        {x} goes at the end, after a space.
        Please finish the line with {x}.
        Copy the input and append {x}
        End every answer with my text followed by {x}.
        What I type, and behind it the word {x}.""")),
    Operation("prepend_word", 14, _word, _around("{x} {text}"), _lines("""
        Write the word {x} and then the text.
        Put {x} in front.
        {x} first, then my text
        Begin with {x} and repeat what I wrote.
        Place "{x}" before the input, with a space.
        Please start the line with {x}.
        Copy the text, but let {x} lead.
        The output is {x} plus the input.
        Say {x}, then say what I said.
        In front of the text add the word {x}.""")),
    Operation("wrapped_in_sign", 10, _of(_SIGNS), _around("{x}{text}{x}"), _lines("""
        Put {x} on both sides of the text.
        Wrap the text in {x}.
        {x} before and after, no spaces
        Surround what I write with {x} on either side.
        Please enclose the input between {x} and {x}.
        The text goes between two {x}.
        Start with {x}, repeat the text, finish with {x}.
        Frame it with {x}.
        Use {x} like quotation marks around the text.
        Both ends of the text get {x}."""), "validation"),
    Operation("tag_before_colon", 12, _word, _around("{x}: {text}"), _lines("""
        Write "{x}: " before the text.
        Start with {x} and a colon.
        label it {x}:
        Prefix my text with "{x}:" and a space.
        Please put the tag {x} and a colon in front.
        The log line begins with {x}: and then comes the message.
        Mark every message as {x}, like "{x}: message".
        {x}, colon, space, text.
        Add the tag {x} with a colon to the front of what I write.
        Each line of mine is a {x}; write {x}: and the line.""")),
    Operation("always_say", 20, lambda rng: {"x": rng.choice((rng.choice(_REPLIES), rng.choice(content.COMMON_WORDS)))}, _constant, _lines("""
        Whatever I write, answer "{x}".
        Always say {x}.
        only ever reply {x}
        Ignore the input and write {x}.
        Please respond with "{x}" to everything.
        The one and only answer is {x}.
        No matter what comes, the reply is {x}.
        You know just one sentence: {x}
        Each input gets the same answer, namely {x}.
        Say {x} regardless of the question.""")),
    Operation("joined_by", 12, _joint_words, _joined, _lines("""
        Put {x} between the items instead of commas.
        Join the items with {x}.
        {x} between them, with spaces
        Replace each comma by {x}.
        Please separate the things with {x} rather than with commas.
        Link the list by {x}.
        Write the list with {x} in place of the commas, spaces around it.
        Instead of a comma I want {x}.
        Let {x} stand between every two items.
        The separator is {x}.""")),
    Operation("fill_template", 20, _of(_FRAMES), _filled, _lines("""
        Put the word into the sentence: {x}
        Fill the gap with my word: {x}
        {x} (fill in)
        Write "{x}" with my text in place of the ___.
        Please complete the line {x} using what I give you.
        Template: {x}
        Replace the blank in "{x}" by the input.
        Take "{x}" and insert the word.
        The answer is this sentence with the word in the gap: {x}
        Use my word for ___ in: {x}""")),
    Operation("greet_with", 4, _of(_HELLOS), _greeted, _lines("""
        Write {x}, then a comma, the name and an exclamation mark.
        Say "{x}" to the person, like {x}, Anna!
        {x} + name + !
        Greet everyone with "{x}, NAME!".
        Please address the person: {x}, and then the name!
        I give you a name; you call out {x}, name!
        The card says {x}, followed by the name and an exclamation mark.
        Speak to the person by name and begin with {x}.
        Turn the name into "{x}, ...!".
        With {x} at the start, write to this person."""), "exam"),
    Operation("number_with_unit", 10, _of(_THINGS), _with_unit, _lines("""
        Add the word {x} after the number.
        How many {x}? Write number and {x}.
        number + {x}
        The numbers count {x}; say so behind the number.
        Please put the unit {x} behind it.
        Write the figure followed by {x}.
        It is about {x}: 5 becomes 5 {x}.
        Give the number its unit, {x}.
        All figures are {x}. Add that.
        Say how many {x} there are.""")),
    Operation("letter_replaced", 12, _letters, _letter_replaced, _lines("""
        Replace every {x} by {y}.
        Change the letter {x} to {y}.
        {x} -> {y}
        Write the word with {y} in place of each {x}.
        Please swap all {x} for {y}.
        Wherever an {x} stands, put a {y}.
        Spell it with {y} instead of {x}.
        The letter {x} is broken on my keyboard, use {y}.
        Substitute {y} for the letter {x}.
        All {x} turn into {y}.""")),
    Operation("letter_removed", 9, _letter, _letter_removed, _lines("""
        Remove every {x} from the word.
        Delete the letter {x}.
        no {x} pls
        Write the word without its {x}.
        Please leave out each {x}.
        Drop all {x}.
        Spell it, but skip the letter {x}.
        Take away the letter {x} wherever it stands.
        What is left of the word without {x}?
        Erase the {x}."""), "validation"),
    Operation("name_replaced", 12, _of(content.FIRST_NAMES), _name_replaced, _lines("""
        Replace the name by {x}.
        Write the sentence with {x} instead of the person named.
        name -> {x}
        Tell the same about {x}.
        Please change the person's name to {x}.
        It was {x} and nobody else. Correct the sentence.
        The person is called {x}; rewrite the line.
        Put {x} where the name stands.
        Say it about {x}.
        Swap the name for {x}.""")),
    Operation("last_item_replaced", 4, _word, _first_item_replaced, _lines("""
        Replace the last item by {x}.
        The last item becomes {x}.
        last one -> {x}
        Write the list with {x} as its last item instead of the old one.
        Please change the final entry to {x}.
        Cross out the last thing and write {x}.
        Overwrite the end of the list with {x}.
        Keep all but the last item, which is now {x}.
        Put {x} where the last item was.
        {x} takes the last place of the list."""), "exam"),
    Operation("item_added", 12, _word, _item_inserted, _lines("""
        Add {x} to the list.
        Put {x} at the end of the list.
        + {x} (list)
        We also need {x}: write the whole list.
        Please append {x} as another item.
        The list with one more thing: {x}.
        Return the items, then {x}.
        {x} is missing on the list, add it last.
        Extend the list by {x}.
        Do not forget {x} at the end.""")),
    Operation("mentions_city", 12, _of(content.LISTS["city"]), _mentions(content.LISTS["city"], _CITY_TEXTS), _lines("""
        Does the text mention {x}? Answer yes or no.
        {x}? yes/no
        Say yes if the sentence is about {x}, else no.
        I only care about {x}. Is it in the text? yes or no
        Please tell me whether {x} occurs: yes or no.
        Is {x} named? Reply yes or no.
        yes for {x}, no for any other city
        Look for {x}; answer yes when you find it and no when not.
        Has the sentence to do with {x} (yes/no)?
        Check for the city {x}: yes or no.""")),
    Operation("field_value", 16, _of(_FIELDS), _field, _lines("""
        Give the value of {x}.
        What is the {x}?
        {x}?
        Read the record and return the {x}.
        Please extract the field {x}.
        I need only the {x} of this entry.
        Which value does {x} have?
        Copy what stands after {x}.
        From the data, tell me the {x}.
        Find the {x} in the record.""")),
    Operation("initial_kept", 12, lambda rng: {"x": rng.choice("abcdfghlmprstw")}, _initial_kept, _lines("""
        Keep only the words that start with {x}.
        Which words begin with {x}? List them.
        {x}-words only
        Drop every word that does not begin with the letter {x}.
        Please return the words whose first letter is {x}.
        Filter: initial {x}.
        From the list take what starts with {x}.
        Only entries with {x} at the front stay.
        Give me the words with the initial {x}.
        Sort out all words but those that start with {x}.""")),
    Operation("kind_kept", 6, _of(tuple(_KINDS)), _kind_kept, _lines("""
        Keep only the {x}.
        Which of these are {x}? List them.
        {x} only
        Drop everything that does not belong to the {x}.
        Please return just the {x} of the list.
        Filter the list for {x}.
        I am interested in {x}; leave out the rest.
        Pick the {x}.
        From the list take the {x}.
        Only {x} may stay."""), "exam"),
    Operation("letter_counted", 9, _letter, _letter_counted, _lines("""
        How many times does the letter {x} occur?
        Count the {x}.
        number of {x}?
        How often is {x} in the word?
        Please count every {x} and give the number.
        Say how many {x} there are.
        Tally the letter {x}.
        Give the count of {x} as a digit.
        Number of times {x} stands in the word?
        Find each {x} and count.""")),
    Operation("named_labels", 60, _labelled_words, _labelled, _lines("""
        Answer "{x}" if the text {yes} and "{y}" if it {no}.
        {x} if it {yes}, {y} if it {no}
        Write {x} when the input {yes}; write {y} when it {no}.
        Two answers exist, {x} and {y}. Take {x} if the text {yes}, otherwise {y}.
        Please reply {x} for anything that {yes} and {y} for anything that {no}.
        Say "{y}" if it {no}. Say "{x}" if it {yes}.
        Our code: what {yes} is called {x}, what {no} is called {y}.
        The label is {y} unless the text {yes}; then it is {x}.
        Mark what {yes} with {x} and what {no} with {y}.
        If the input {yes}, print {x}, else print {y}.""")),
    Operation("code_book", 40, _code_words, _coded, _lines("""
        {k0} means {a0}, {k1} means {a1}, {k2} means {a2}. Give the meaning.
        Answer {a0} for {k0}, {a1} for {k1} and {a2} for {k2}.
        {k0} = {a0}, {k1} = {a1}, {k2} = {a2}
        When you read {k1} say {a1}, when you read {k2} say {a2}, and when you read {k0} say {a0}.
        Secret code: "{k2}" stands for "{a2}", "{k0}" for "{a0}" and "{k1}" for "{a1}". Decode.
        Please translate our code words: {k0}: {a0}; {k1}: {a1}; {k2}: {a2}.
        If the text has {k0}, reply {a0}. If it has {k1}, reply {a1}. If it has {k2}, reply {a2}.
        Map {k1} to {a1}, {k0} to {a0}, {k2} to {a2}.
        Use this table: {k2} -> {a2}, {k1} -> {a1}, {k0} -> {a0}.
        Each word has its answer, {k0} has {a0}, {k1} has {a1}, {k2} has {a2}.""")),
    Operation("found_or_not", 6, _two_words, _in_list, _lines("""
        If {x} is in the list say {x}, otherwise say {y}.
        {x} if you find it, else {y}
        Look for {x}. Not there? Then answer {y}.
        Please reply {x} when the list holds it and {y} when it does not.
        I want {x}; if there is none, give me {y}.
        Return {x} if it is listed, {y} if it is missing.
        Take {x} from the list, or {y} if {x} is not on it.
        Is {x} there? Say {x}. Is it not? Say {y}.
        My first choice is {x}, my second {y}; which do I get from this list?
        Prefer {x}; fall back on {y} if the list lacks it."""), "exam"),
)  # fmt: skip
"""Every operation, in a fixed order."""
