"""Short texts: answering a question, asking one, a title, a keyword, what is true and what is not said."""

from __future__ import annotations

from random import Random

from lab.content import COMPANIES, DAYS, FIRST_NAMES, LISTS, MONTHS, PLACES, SURNAMES, full_name, items
from lab.tasks import Catalogue

CATALOGUE = Catalogue()
task = CATALOGUE.task

_CITIES = LISTS["city"]
# those that "a" stands before
_JOBS, _ANIMALS, _COLORS = (tuple(w for w in LISTS[kind] if w[0] not in "aeiou") for kind in ("job", "animal", "color"))


def _facts(rng: Random) -> tuple[str, dict[str, str]]:
    """A short text about a person, and its facts."""
    facts = {
        "name": rng.choice(FIRST_NAMES), "city": rng.choice(_CITIES), "job": rng.choice(_JOBS), "animal": rng.choice(_ANIMALS),
        "day": rng.choice(DAYS), "color": rng.choice(_COLORS), "age": str(rng.randint(18, 80)), "sport": rng.choice(LISTS["sport"]),
    }  # fmt: skip
    parts = ["{name} is {age} years old and lives in {city}."]
    parts += rng.sample(
        ("{name} works as a {job}.", "On {day} {name} always does {sport}.", "At home there is a {color} {animal}."), 2
    )
    facts["shown"] = " ".join(parts)
    return " ".join(parts).format(**facts), facts


_QUESTIONS = {
    "city": "Where does {name} live?", "age": "How old is {name}?", "job": "What is {name}'s job?",
    "day": "On which day does {name} do sports?", "sport": "Which sport does {name} do?", "animal": "Which animal is there?", "color": "What color is the animal?",
}  # fmt: skip


@task("answer_question", "reading", """
    Answer the question about the text.
    Read the text and answer the question.
    answer?
    The question at the end can be answered from the text. Answer in a few words.
    Please reply to the question with a word or two from the text.
    Find the answer in the passage.
    What does the text say? Answer the last question.
    Short answer to the question, please.
    Use the text to answer.
    Reading test: answer with as few words as you can.
    """)  # fmt: skip
def _(rng: Random):
    text, facts = _facts(rng)
    key = rng.choice([key for key in _QUESTIONS if f"{{{key}}}" in facts["shown"]])
    return f"{text} {_QUESTIONS[key].format(**facts)}", facts[key]


@task("yes_no_question", "reading", """
    Answer the question about the text with yes or no.
    yes or no?
    Read the text and reply yes or no to the question.
    Please answer the last question: yes or no.
    Does the text say so? yes/no
    Check the question against the text. Say yes if it is true, no if not.
    Only yes or no: answer the question that follows the passage.
    Use the text to decide, yes or no.
    Reading test with two answers, yes and no.
    One word answer (yes, no) to the question
    """)  # fmt: skip
def _(rng: Random):
    text, facts = _facts(rng)
    key, pool, question = rng.choice((
        ("city", _CITIES, "Does {name} live in {v}?"), ("age", tuple(map(str, range(18, 81))), "Is {name} {v} years old?"),
        *((("job", _JOBS, "Is {name} a {v}?"),) if "{job}" in facts["shown"] else ()),
        *((("animal", _ANIMALS, "Is there a {v}?"),) if "{animal}" in facts["shown"] else ()),
        *((("day", DAYS, "Does {name} do sports on {v}?"),) if "{day}" in facts["shown"] else ()),
    ))  # fmt: skip
    yes = rng.random() < 0.5
    value = facts[key] if yes else rng.choice([v for v in pool if v != facts[key]])
    return f"{text} {question.format(name=facts['name'], v=value)}", "yes" if yes else "no"


@task("text_supports_claim", "reading", """
    Does the text prove the claim, contradict it, or not say? Answer proved, contradicted or unknown.
    proved, contradicted or unknown?
    Check the claim after the bar: proved, contradicted, unknown.
    Please compare claim and text and answer proved, contradicted or unknown.
    Write proved if the text says it, contradicted if the text says otherwise, unknown if the text is silent.
    Fact check with three verdicts: unknown, proved, contradicted.
    Is the claim backed by the text (proved), against it (contradicted) or not in it (unknown)?
    Verdict pls: proved/contradicted/unknown
    How does the claim stand, going by the text alone? proved, unknown or contradicted.
    Judge the statement on the right by the passage on the left (contradicted, unknown, proved).
    """, "exam")  # fmt: skip
def _(rng: Random):
    text, facts = _facts(rng)
    verdict = rng.choice(("proved", "contradicted", "unknown"))
    name, city, age = facts["name"], facts["city"], facts["age"]
    other = rng.choice([c for c in _CITIES if c != city])
    claim = {
        "proved": rng.choice((f"{name} lives in {city}.", f"{name} is {age} years old.")),
        "contradicted": rng.choice(
            (f"{name} lives in {other}.", f"{name} is {int(age) + rng.randint(2, 9)} years old.")
        ),
        "unknown": rng.choice(
            (
                f"{name} has two sisters.",
                f"{name} likes coffee.",
                f"{name} was born in {other}.",
                f"{name} plays the piano.",
                f"{name} drives a blue car.",
            )
        ),
    }[verdict]
    return f"{text} | {claim}", verdict


_STATEMENTS = (
    ("{n} lives in {c}.", "Where does {n} live?"), ("{n} was born in {y}.", "When was {n} born?"), ("{n} is {a} years old.", "How old is {n}?"),
    ("{n} works as a {j}.", "What does {n} do for a living?"), ("{n} has {k} cats.", "How many cats does {n} have?"), ("The train leaves at {h} o'clock.", "When does the train leave?"),
    ("The book costs ${a}.", "How much does the book cost?"), ("{n} painted the fence.", "Who painted the fence?"), ("The keys are in {p}.", "Where are the keys?"),
    ("{n} went to {c} by bus.", "How did {n} get to {c}?"), ("{n} stayed home because of the rain.", "Why did {n} stay home?"), ("The meeting is on {d}.", "When is the meeting?"),
    ("{n}'s favorite color is {o}.", "What is {n}'s favorite color?"), ("{n} bought a {j}'s uniform.", "What did {n} buy?"), ("The bridge is {a} meters long.", "How long is the bridge?"), ("{n} met {m} in {c}.", "Whom did {n} meet in {c}?"),
)  # fmt: skip


def _slots(rng: Random) -> dict[str, object]:
    name, other = rng.sample(FIRST_NAMES, 2)
    return {"n": name, "m": other, "c": rng.choice(_CITIES), "y": rng.randint(1930, 2015), "a": rng.randint(5, 95), "j": rng.choice(_JOBS), "k": rng.randint(2, 9), "h": rng.randint(1, 12), "p": rng.choice(PLACES), "d": rng.choice(DAYS), "o": rng.choice(_COLORS)}  # fmt: skip


@task("question_from_text", "reading", """
    Write a question that the sentence answers.
    Make a question for this answer sentence.
    question pls
    Anna lives in Rome. Where does Anna live? Do the same.
    Please ask something whose answer stands in the sentence.
    What question does the text answer?
    I am making a quiz: write the question for this fact.
    Turn the fact into a wh-question.
    Ask about the information in the sentence.
    Which question could one ask about this?
    """)  # fmt: skip
def _(rng: Random):
    statement, question = rng.choice(_STATEMENTS)
    slots = _slots(rng)
    return statement.format(**slots), question.format(**slots)


@task("answer_in_sentence", "reading", """
    Answer the question in a full sentence with the given answer.
    Where does Anna live? (Rome) becomes Anna lives in Rome. Do the same.
    Full-sentence answer please.
    Put question and short answer together to one sentence.
    Please write a whole sentence instead of the short answer in parentheses.
    The teacher wants complete sentences. Answer like that.
    Make a statement out of the question and the answer in parentheses.
    whole sentence pls
    Reply with a complete sentence, using what is in the parentheses.
    Answer fully.
    """)  # fmt: skip
def _(rng: Random):
    slots = _slots(rng)
    question, answer, text = rng.choice((
        ("Where does {n} live?", "{c}", "{n} lives in {c}."), ("How old is {n}?", "{a}", "{n} is {a} years old."), ("When was {n} born?", "{y}", "{n} was born in {y}."),
        ("What does {n} do for a living?", "{j}", "{n} works as a {j}."), ("How many cats does {n} have?", "{k}", "{n} has {k} cats."), ("When is the meeting?", "{d}", "The meeting is on {d}."),
        ("Who painted the fence?", "{n}", "{n} painted the fence."), ("How much does the book cost?", "${a}", "The book costs ${a}."), ("Where are the keys?", "{p}", "The keys are in {p}."),
    ))  # fmt: skip
    return f"{question} ({answer})".format(**slots), text.format(**slots)


_STORIES = (
    ("{N} baked a cake for {M}'s birthday. Everybody loved it.", "{M}'s Birthday Cake"), ("{N} lost the house keys in the park. A dog found them.", "The Lost Keys"),
    ("It rained for days and the river rose. {N} helped to save the village.", "The Flood"), ("{N} took the train to {c} for the first time and saw the old town.", "A Trip to {c}"),
    ("The {a} of {N} ran away. After two days it sat at the door again.", "The Runaway {A}"), ("{N} wants to be a {j}. Every evening {N} studies for it.", "Becoming a {J}"),
    ("At night {N} heard steps in the attic. It was only the {a}.", "Steps in the Attic"), ("The children built a snowman with a {o} hat. In the morning it had melted.", "The Snowman"),
    ("{N} and {M} opened a small bakery in {c}. The first day they sold out.", "A New Bakery in {c}"), ("{N} planted a seed. Years later there was a tall tree.", "The Little Seed"),
    ("The power went out in {c}. People lit candles and told stories.", "A Night without Light"), ("{N} won the chess cup in {c} against {M}.", "{N} Wins the Chess Cup"),
)  # fmt: skip


@task("title_of_text", "reading", """
    Give the text a title.
    Write a short title.
    title pls
    What could the story be called?
    Please find a title of two to five words for this text.
    The story has no heading yet. Write one.
    Which title fits?
    A headline for the little story, please.
    Name the story.
    Put a title on top of it.
    """)  # fmt: skip
def _(rng: Random):
    text, title = rng.choice(_STORIES)
    name, other = rng.sample(FIRST_NAMES, 2)
    animal, job = rng.choice(_ANIMALS), rng.choice(_JOBS)
    slots = {
        "N": name,
        "M": other,
        "c": rng.choice(_CITIES),
        "a": animal,
        "A": animal.title(),
        "j": job,
        "J": job.title(),
        "o": rng.choice(_COLORS),
    }
    return text.format(**slots), title.format(**slots)


@task("main_character", "reading", """
    Who is the story about? Give the name that comes first.
    Main character?
    Name of the hero of the story.
    Please tell me the first person named in the story.
    Which person does the text mention first?
    Give the first name that occurs.
    who is it about
    The person at the center of the story, one word.
    Return the first person's name in the text.
    Whose story is it?
    """)  # fmt: skip
def _(rng: Random):
    text, _ = rng.choice([story for story in _STORIES if story[0].startswith(("{N}",))])
    name, other = rng.sample(FIRST_NAMES, 2)
    return text.format(
        N=name, M=other, c=rng.choice(_CITIES), a=rng.choice(_ANIMALS), j=rng.choice(_JOBS), o=rng.choice(_COLORS)
    ), name


@task("where_in_text", "reading", """
    Which city is named in the text?
    Find the city.
    city?
    Where is it? Copy the name of the town.
    Please extract the city from this sentence.
    Return the place name, nothing else.
    In which town does it happen?
    The name of the city, please.
    Give the geographic name in the text.
    pull out the city
    """)  # fmt: skip
def _(rng: Random):
    city, name, number = rng.choice(_CITIES), rng.choice(FIRST_NAMES), rng.randint(2, 40)
    return rng.choice(
        (
            f"{name} flew to {city} with {number} friends.",
            f"The shop in {city} opens on {rng.choice(DAYS)}.",
            f"{number} people from {city} visited the fair.",
            f"It snowed in {city} in {rng.choice(MONTHS)}.",
            f"{name} studies medicine in {city}.",
            f"The bus to {city} was {number} minutes late.",
        )
    ), city


@task("company_in_text", "reading", """
    Which company is mentioned?
    Find the name of the company.
    company?
    Please extract the firm's name.
    Copy the name of the business in the sentence.
    Who is the employer or seller? Name of the firm only.
    Return the organization in this text.
    What is the company called?
    company name pls
    Pick out the business name.
    """)  # fmt: skip
def _(rng: Random):
    company, name, city = rng.choice(COMPANIES), rng.choice(FIRST_NAMES), rng.choice(_CITIES)
    return rng.choice(
        (
            f"{name} has worked for {company} since {rng.randint(1990, 2023)}.",
            f"{company} will open a branch in {city}.",
            f"I bought it from {company} in {city}.",
            f"On {rng.choice(DAYS)}, {company} hired {rng.randint(2, 90)} people.",
            f"{name} got a letter from {company}.",
            f"The truck of {company} blocks the street.",
        )
    ), company


@task("numbers_in_text", "reading", """
    Which number is in the sentence?
    Copy the number.
    number only
    Please extract the number from this sentence.
    Return just the digits that occur in the text.
    How many? Give the number mentioned.
    Find the figure.
    The amount as written, no words.
    pull out the number
    What number does the sentence contain?
    """)  # fmt: skip
def _(rng: Random):
    number, name, thing = (
        rng.randint(2, 999),
        rng.choice(FIRST_NAMES),
        rng.choice(("books", "apples", "chairs", "letters", "stamps", "tickets", "eggs")),
    )
    return rng.choice(
        (
            f"{name} bought {number} {thing} on {rng.choice(DAYS)}.",
            f"There are {number} {thing} in {rng.choice(PLACES)}.",
            f"We need {number} more {thing}.",
            f"{name} lost {number} of the {thing}.",
            f"The truck brings {number} {thing} to {rng.choice(_CITIES)}.",
        )
    ), str(number)


@task("all_names_in_text", "reading", """
    List all persons named in the text, separated by commas.
    Who is mentioned? All names.
    names pls
    Find every first name and list them in order.
    Please give the names of all people in this sentence.
    Names only, with commas.
    Which people occur in the text?
    Extract the persons.
    Make a list of everybody mentioned.
    Copy out the names.
    """, "validation")  # fmt: skip
def _(rng: Random):
    names = rng.sample(FIRST_NAMES, rng.randint(2, 3))
    first, rest = names[0], " and ".join(names[1:])
    return rng.choice(
        (
            f"{first} went to {rng.choice(_CITIES)} with {rest}.",
            f"On {rng.choice(DAYS)} {first} will meet {rest} at {rng.choice(PLACES)}.",
            f"{first} gave a book to {rest}.",
            f"Did {first} tell {rest} about it?",
        )
    ), ", ".join(names)


@task("price_in_text", "reading", """
    What is the price? Copy it with the dollar sign.
    Find the price.
    price?
    How much does it cost, as written?
    Please extract the amount of money.
    Return the sum with its dollar sign.
    Which amount is named in the text?
    The money value only.
    pull out the price
    Give just the price.
    """)  # fmt: skip
def _(rng: Random):
    from lab.content import PRODUCTS, money

    price, product = money(rng), rng.choice(PRODUCTS)
    return rng.choice(
        (
            f"The {product} costs {price}, delivery takes {rng.randint(2, 9)} days.",
            f"I paid {price} for {rng.randint(1, 3)} hours with it.",
            f"Now only {price}: {product}, {rng.randint(1, 5)} left!",
            f"{product} - {price} - pick up on {rng.choice(DAYS)}",
            f"They wanted {price} for the old {product}.",
        )
    ), price


@task("weather_temperature", "reading", """
    How warm will it be? Copy the temperature.
    Temperature in the forecast.
    temp?
    Please extract the degrees from the weather report.
    Return the temperature as written.
    What temperature do they predict?
    How many degrees? Number and unit as in the text.
    Give me only the temperature.
    pull out the degrees
    Which temperature is named?
    """, "exam")  # fmt: skip
def _(rng: Random):
    unit = rng.choice((" degrees", "°C", "°F"))
    value, city, day = f"{rng.randint(-9, 39)}{unit}", rng.choice(_CITIES), rng.choice(DAYS)
    return rng.choice(
        (
            f"{city} on {day}: sunny, {value}, wind from the west at {rng.randint(3, 60)} km/h.",
            f"Expect {value} and {rng.randint(1, 90)}% chance of rain in {city}.",
            f"It will be {value} in {city} with {rng.randint(1, 9)} hours of sun.",
            f"Rain until {rng.randint(1, 11)} pm, then clear, {value} in {city}.",
        )
    ), value


@task("job_in_text", "reading", """
    What is the person's job?
    Find the profession.
    job?
    What does the person do for a living? One word.
    Please extract the occupation from this text.
    Return the profession named in the sentence.
    As what does the person work?
    Occupation only.
    pull out the job
    Give the job that is mentioned.
    """)  # fmt: skip
def _(rng: Random):
    job, (first, last), city = rng.choice(_JOBS), full_name(rng), rng.choice(_CITIES)
    return rng.choice(
        (
            f"{first} {last}, {job}, lives in {city}.",
            f"My uncle {first} is a {job} in {city}.",
            f"Since {rng.randint(1990, 2020)} {first} has worked as a {job}.",
            f"Ask {first}, our {job} from {city}.",
            f"{first} wanted to travel, but became a {job}.",
        )
    ), job


@task("keyword", "reading", """
    What thing is the riddle about?
    Solve the riddle.
    riddle: what is it?
    Guess the object from the description.
    Please tell which thing is described.
    What am I? One word.
    Name the thing that fits the clues.
    Which word is defined here?
    solve pls
    Give the answer to the riddle.
    """)  # fmt: skip
def _(rng: Random):
    answer, clues = rng.choice((
        ("umbrella", "keeps you dry in the rain"), ("clock", "has hands and shows the time"), ("key", "opens a lock"), ("spoon", "you eat soup with it"), ("bed", "you sleep in it"),
        ("fridge", "keeps food cold"), ("book", "has many pages and tells a story"), ("bicycle", "has two wheels and pedals"), ("candle", "gives light and is made of wax"), ("mirror", "shows you your face"),
        ("pencil", "you write with it and sharpen it"), ("shoe", "you wear it on your foot"), ("sun", "shines by day and warms us"), ("moon", "shines at night in the sky"), ("bridge", "crosses a river"),
        ("camera", "takes pictures"), ("scissors", "cuts paper with two blades"), ("bee", "a small insect that makes honey"), ("cow", "a farm animal that gives milk"), ("piano", "an instrument with black and white keys"),
        ("doctor", "helps you when you are ill"), ("baker", "makes bread early in the morning"), ("pilot", "flies a plane"), ("snow", "falls white and cold in winter"), ("map", "shows streets and countries on paper"),
        ("door", "you open it to enter a room"), ("hat", "you wear it on your head"), ("egg", "a hen lays it"), ("teacher", "explains things at school"), ("ladder", "you climb up on its steps"),
    ))  # fmt: skip
    return rng.choice(("{c}", "{c}. What is it?", "Riddle: {c}", "Clue: {c}")).format(c=clues), answer


@task("fill_blank", "reading", """
    Fill in the blank with one word.
    Which word belongs in the gap?
    gap word?
    Complete the sentence: give the missing word.
    Please write the word for the blank.
    Replace ___ by a fitting word and give just that word.
    What goes in the empty space?
    One word for the gap.
    fill the blank pls
    Find the word left out.
    """)  # fmt: skip
def _(rng: Random):
    text, answer = rng.choice((
        ("The sun rises in the ___.", "east"), ("A week has seven ___.", "days"), ("We hear with our ___.", "ears"), ("Birds can ___.", "fly"), ("Fish live in ___.", "water"), ("A year has twelve ___.", "months"),
        ("The opposite of hot is ___.", "cold"), ("Bees make ___.", "honey"), ("Cows give ___.", "milk"), ("You see with your ___.", "eyes"), ("Grass is ___.", "green"), ("Ice is frozen ___.", "water"), ("Snow is ___.", "white"),
        ("Paris is the capital of ___.", "France"), ("An hour has sixty ___.", "minutes"), ("A triangle has three ___.", "sides"), ("At night we see the moon and the ___.", "stars"), ("Two plus two is ___.", "four"),
        ("In winter it is ___.", "cold"), ("A spider has eight ___.", "legs"), ("We brush our ___ twice a day.", "teeth"), ("A baker makes ___.", "bread"), ("The heart pumps ___.", "blood"), ("You read a ___.", "book"), ("Lemons taste ___.", "sour"),
        ("Sugar tastes ___.", "sweet"), ("A dog has four ___.", "legs"), ("Your mother's mother is your ___.", "grandmother"), ("The color of blood is ___.", "red"), ("Rain falls from the ___.", "clouds"), ("A car has four ___.", "wheels"), ("Planes land at the ___.", "airport"),
    ))  # fmt: skip
    return text, answer


@task("words_to_sentence", "reading", """
    Put the words in the right order to make a sentence.
    Unscramble the sentence.
    word order pls
    The words are mixed up. Write the sentence.
    Please build a correct sentence from these words.
    Arrange the words so that they make sense.
    Make a sentence of all the words.
    Which sentence was it?
    Repair the order of the words.
    Sort the words into a sentence.
    """)  # fmt: skip
def _(rng: Random):
    from lab.content import proper, sentence

    parts = sentence(rng, most=7).split()
    while True:
        mixed = rng.sample(parts, len(parts))
        if mixed != parts:
            return " / ".join(mixed), proper(" ".join(parts))


@task("hashtags", "reading", """
    Make hashtags out of the words.
    apple, pear becomes #apple #pear.
    hashtags pls
    Put a # before each word and leave out the commas.
    Please turn the keywords into hashtags.
    For my post: the tags with # in front.
    Write the topics as hashtags.
    How do these words look as hashtags?
    Tag it: every word with #.
    Convert the list to hashtags, separated by spaces.
    """)  # fmt: skip
def _(rng: Random):
    things = [thing.replace(" ", "").lower() for thing in items(rng, 2, 4)]
    return ", ".join(things), " ".join(f"#{thing}" for thing in things)


@task("hashtags_to_words", "reading", """
    Write the hashtags as plain words.
    #redcar #sun becomes redcar, sun.
    no hashtags pls, words with commas
    Remove the # signs and put commas between the words.
    Please list the tags without the hash sign.
    Turn hashtags into a comma list.
    What are the tags, without #?
    Convert the hashtags to a normal list.
    Strip the hash signs; separate by commas.
    Tags as words.
    """, "exam")  # fmt: skip
def _(rng: Random):
    things = [thing.replace(" ", "").lower() for thing in items(rng, 2, 4)]
    return " ".join(f"#{thing}" for thing in things), ", ".join(things)


@task("mentions", "reading", """
    Which users are mentioned? List the names after @.
    List the @ mentions without the @.
    mentions pls
    Find everybody tagged with @ in the post.
    Please extract the mentioned user names, separated by commas.
    Who is tagged?
    Return the tagged names without the sign.
    Names after the @ signs, with commas.
    Whom does the post address with @?
    Pull out the tagged users.
    """)  # fmt: skip
def _(rng: Random):
    names = [
        f"{rng.choice(FIRST_NAMES).lower()}{rng.choice(('', '_', '.'))}{rng.choice(SURNAMES).lower()}"
        for _ in range(rng.randint(1, 2))
    ]
    tags = " and ".join(f"@{name}" for name in names)
    return rng.choice(
        (
            f"Great day with {tags} in {rng.choice(_CITIES)}!",
            f"Thanks {tags} for the tea",
            f"Who else saw this? {tags} look!",
            f"{tags} are you coming on {rng.choice(DAYS)}?",
        )
    ), ", ".join(names)


@task("find_url", "reading", """
    Copy the link from the text.
    Find the URL.
    link?
    Please extract the web address.
    Which website is named? Give the full address.
    Return the URL only.
    Where should one click? Copy the link.
    The web link, exactly as it stands.
    pull out the url
    Get the address that starts with http or www.
    """)  # fmt: skip
def _(rng: Random):
    site = rng.choice(("shop", "city-news", "maps", "bookworld", "greenleaf", "mybank", "travel24", "recipes"))
    url = f"{rng.choice(('https://www.', 'http://', 'www.', 'https://'))}{site}.{rng.choice(('com', 'org', 'net', 'de'))}/{rng.choice(('', 'help', 'offers', 'login', 'news/today'))}".rstrip(
        "/"
    )
    return rng.choice(
        (
            f"More at {url} from {rng.choice(DAYS)} on.",
            f"See {url} for details.",
            f"I found it on {url}, it was cheap.",
            f"Please log in ({url}) and change your password.",
            f"{rng.choice(FIRST_NAMES)} sent me this: {url} Funny!",
        )
    ), url
