"""Words, names, lists and sentences of everyday life, from which tasks draw their inputs. Knows no task."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random


def words(text: str, separator: str | None = None) -> tuple[str, ...]:
    """A table written as one string: separated by blanks, or by ``separator``."""
    return tuple(" ".join(part.split()) for part in text.split(separator) if part.strip())


def rows(text: str) -> tuple[tuple[str, ...], ...]:
    """Rows separated by ``;`` with columns separated by ``=``."""
    return tuple(tuple(cell.strip() for cell in row.split("=")) for row in text.split(";") if row.strip())


LISTS: dict[str, tuple[str, ...]] = {
    "fruit": words("""
        apple pear plum banana cherry grape mango peach lemon orange kiwi melon fig papaya apricot lime
        coconut
    """),
    "vegetable": words("""
        carrot onion potato spinach cabbage pea bean cucumber lettuce celery pumpkin leek radish beet
        corn
    """),
    "animal": words("""
        dog cat horse cow sheep goat lion tiger rabbit fox wolf bear monkey elephant giraffe zebra mouse
        deer
    """),
    "city": words("""
        Paris, London, Rome, Berlin, Madrid, Tokyo, Cairo, Lima, Oslo, Vienna, Boston, Chicago, Toronto,
        Sydney, Dublin, Prague, Athens, Seoul, Delhi, Mumbai, Lisbon, Warsaw, Helsinki, Miami, Denver,
        Austin, Seattle, New York, San Diego
    """, ","),
    "color": words("""
        red blue green yellow purple orange pink brown black white gray silver gold violet turquoise
    """),
    "tool": words("""
        hammer saw drill wrench pliers screwdriver shovel rake axe chisel ladder tape
    """),
    "drink": words("""
        water, tea, coffee, milk, juice, lemonade, cola, beer, wine, hot chocolate, iced tea, soda
    """, ","),
    "country": words("""
        France, Germany, Spain, Italy, Japan, China, India, Brazil, Mexico, Canada, Egypt, Kenya, Norway,
        Poland, Greece, South Korea, New Zealand, Chile, Peru, Turkey
    """, ","),
    "grocery": words("""
        milk, bread, eggs, butter, cheese, rice, pasta, sugar, salt, flour, olive oil, coffee, chicken,
        yogurt, honey, tomatoes, bananas, ham, tuna, jam, oats
    """, ","),
    "clothes": words("""
        shirt jacket socks scarf hat gloves jeans sweater dress coat belt raincoat boots
    """),
    "sport": words("""
        football tennis golf hockey swimming running boxing rowing cycling basketball chess skiing
    """),
    "instrument": words("""
        piano violin guitar drums flute trumpet cello harp clarinet saxophone banjo
    """),
    "furniture": words("""
        chair table sofa desk bed lamp shelf wardrobe mirror carpet armchair bench
    """),
    "job": words("""
        teacher nurse doctor lawyer farmer pilot baker painter engineer plumber waiter writer driver cook
        dentist
    """),
    "subject": words("""
        math history biology physics music art geography chemistry Latin economics French
    """),
    "chore": words("""
        wash the dishes, feed the cat, call mom, buy stamps, water the plants, take out the trash, pay
        the rent, walk the dog, clean the garage, book a flight, fix the bike, do the laundry, mow the
        lawn
    """, ","),
}  # fmt: skip
"""Kind of thing -> things."""

FIRST_NAMES = words(
    "Anna Ben Clara David Emma Felix Grace Henry Ivan Julia Kevin Laura Martin Nina Oscar Paula Quinn Rosa Sam Tina "
    "Victor Walter Yara Zoe Maria Omar Lucy Peter Sofia Tom Alice Hugo Leo Mia Noah Olivia James Sarah Daniel Ruth "
    "Ahmed Priya Chen Fatima Diego Ingrid Kofi Lena Mateo Yuki Aisha Carlos Elif Jonas Megan Patrick Hannah Simon"
)
MALE = words(
    "Ben David Felix Henry Ivan Kevin Martin Oscar Victor Walter Omar Peter Tom Hugo Leo Noah James Daniel Carlos Simon"
)
FEMALE = words(
    "Anna Clara Emma Grace Julia Laura Nina Paula Rosa Tina Maria Lucy Sofia Alice Mia Olivia Sarah Ruth Hannah Megan"
)
SURNAMES = words(
    "Smith Jones Brown Taylor Wilson Evans Walker Wright Hall Green Adams Baker Carter Clark Cole Davis Fisher Ford "
    "Garcia Gray Hill Hughes King Lee Lopez Martin Miller Moore Nelson Parker Patel Perez Reed Roberts Scott Silva "
    "Stone Turner Ward White Young Novak Rossi Weber Schmidt Tanaka Kim Nguyen Ali Haddad Olsen Costa"
)
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")
COMPANIES = words(
    "Acme,Northwind,Bluebird Books,Sunrise Bakery,Globex,City Bank,Greenleaf,Harbor Hotel,Pine Tools,Orbit Telecom,"
    "Fresh Foods,Lakeview Clinic,Swift Delivery,Brightside Energy,Redwood Furniture,Metro Gym,Silver Travel", ","
)  # fmt: skip
PRODUCTS = words(
    "laptop,phone,headphones,coffee machine,backpack,desk lamp,vacuum cleaner,blender,tent,camera,keyboard,toaster,"
    "office chair,printer,water bottle,electric kettle,smart watch,bicycle,jacket,mattress,rice cooker,umbrella,"
    "monitor,running shoes,garden hose,suitcase,microwave,drill,board game,sunglasses", ","
)  # fmt: skip
NOUNS = words(
    "house river garden window table bridge letter teacher market bottle engine forest picture street doctor kitchen "
    "station paper island mountain school village ticket dinner summer winter morning evening basket mirror pencil "
    "flower camera guitar jacket ladder candle blanket hammer planet rocket castle farmer driver painter sailor "
    "airport museum library hospital holiday weather problem question answer money music story movie"
)
ADJECTIVES = words(
    "small large old new red blue quiet noisy happy tired clever hungry heavy light warm cold bright dark clean dirty "
    "fast slow young friendly strange simple funny famous empty soft broken expensive cheap busy lazy brave gentle"
)
PLACES = words(
    "the park,the office,the kitchen,the library,the train station,the beach,the museum,the supermarket,the garden,"
    "the airport,the gym,the school,the hotel,the post office,the bakery,the hospital,the cinema,the town hall", ","
)  # fmt: skip
_SUBJECTS = words(
    "my brother,the teacher,our neighbor,the old man,a young woman,the children,my parents,the driver,her sister,"
    "the tall boy,the cook,his friend,the new manager,the cat,a small dog,the nurse,the farmer,the students", ","
)  # fmt: skip
_ACTS = words(
    "opened the window,bought a red car,lost the keys,wrote a long letter,cleaned the kitchen,found an old coin,"
    "painted the fence,watched a funny movie,baked fresh bread,missed the last train,read the morning paper,"
    "fixed the broken chair,sang a quiet song,planted three trees,called the doctor,forgot the umbrella,"
    "drank hot tea,sold the house,visited the museum,carried heavy boxes,walked slowly home,played chess,"
    "cooked dinner for everyone,answered every question,took many pictures,climbed the high wall", ","
)  # fmt: skip
_WHEN = words(
    "yesterday,last week,in the morning,on Monday,after lunch,at night,before school,this afternoon,in May,again", ","
)
COMMON_WORDS: tuple[str, ...] = words(
    """
    able acid actor adult agent album alarm amber anchor angel ankle apple apron april arena armor arrow artist
    ash aspen atlas attic autumn avenue axle badge baker ballad bamboo banjo banner barrel basil basin basket
    battery beacon beaver bell bench berry birch biscuit bishop blanket blossom boat bonfire border bottle
    boulder bowl bracelet branch brass bread breeze brick bridge bronze brook broom brush bubble bucket bugle
    bundle butter button cabin cactus camel camera candle canoe canvas captain carbon cargo carpet carrot cedar
    cello chain chalk cherry chess chimney cider circle citrus clay cliff clock clover coach cobalt cocoa coffee
    comet compass copper coral cotton cradle crane crayon cream cricket crown crystal curtain cypress dagger
    daisy dawn delta denim desert diamond dice dolphin domino donkey dragon drum dune eagle echo eclipse elbow
    elm ember emerald engine falcon feather fence fern ferry fiddle finch flame flint flute forest fossil
    fountain fox frost galaxy garden garlic garnet gate geyser ginger glacier globe glove gold goose granite
    grape gravel guitar hammer harbor harp hawk hazel helmet heron hinge honey horizon hornet hotel igloo iris
    iron island ivory ivy jacket jade jaguar jasmine jelly jewel jigsaw judge juice jungle kayak kettle king
    kite kitten knight knot koala ladder lagoon lantern laurel lava lavender leather lemon lens lentil letter
    lilac lime linen lion lobster locket lotus lumber lunar magnet mango maple marble market meadow melon
    mercury meteor mint mirror mosaic moss motor mountain mustard nectar needle nest nickel noodle north nutmeg
    oak oasis ocean olive onion onyx opal orange orbit orchard orchid otter owl oyster paddle palace panda
    panther paper parade parrot pasta peach pearl pebble pelican pencil pepper phoenix piano pigeon pillow pilot
    pine pirate planet plum pocket poem polar poppy prairie prism pumpkin puzzle pyramid quartz quilt rabbit
    radar radish rain raven reef ribbon ridge river robin robot rocket rose ruby saddle saffron sage sail salmon
    salt sand sapphire satin saturn scarf scarlet shadow shell shield silk silver siren sketch slate sleet snail
    snow solar south spark spider spiral sponge spruce stable star steam steel stone storm straw sugar summer
    summit sun sunset swan table talon tango tea temple thistle thunder ticket tide tiger timber tin toast topaz
    torch tower train trumpet tulip tunnel turtle turquoise umbrella valley vanilla velvet vine violet violin
    volcano wafer walnut walrus water wave west whale wheat whistle willow window winter wolf wood wool yarn
    yellow zebra zinc accept agree alert alpha begin blue calm clear closed done early east easy empty exact
    extra fair fast final first fresh full green happy heavy high hot inside keep large late left light loud low
    lucky main major minor near neutral never new next nice normal often old open other outside pass past plain
    positive public quick quiet ready real red reject right safe second secret sharp short simple slow small
    smooth soft solid special steady stop strong sure sweet tall target thin true urgent valid wait warm weak
    white wide wild wrong young
    """
)
"""Words for new labels: all different and in lower case."""


def sentence(rng: Random, *, least: int = 4, most: int = 9) -> str:
    """A plain sentence in the past, in lower case and without a final stop."""
    while True:
        text = f"{rng.choice(_SUBJECTS)} {rng.choice(_ACTS)}"
        if rng.random() < 0.4:
            text += f" {rng.choice(_WHEN)}"
        if least <= len(text.split()) <= most:
            return text


def proper(text: str, end: str = ".") -> str:
    """A text with a capital at its start and a mark at its end."""
    return text[:1].upper() + text[1:] + end


def phrase(rng: Random) -> str:
    """Some words as people type them: a sentence, or a noun with adjectives in a row."""
    if rng.random() < 0.6:
        return sentence(rng)
    return " ".join([*rng.sample(ADJECTIVES, rng.randint(2, 3)), *rng.sample(NOUNS, rng.randint(2, 3))])


def items(rng: Random, least: int = 3, most: int = 6) -> list[str]:
    """Different things of one kind."""
    kind = rng.choice(tuple(LISTS))
    return rng.sample(LISTS[kind], rng.randint(least, most))


def full_name(rng: Random) -> tuple[str, str]:
    """A first name and a surname."""
    return rng.choice(FIRST_NAMES), rng.choice(SURNAMES)


def date(rng: Random) -> tuple[int, int, int]:
    """Year, month and day, between 1950 and 2030."""
    return rng.randint(1950, 2030), rng.randint(1, 12), rng.randint(1, 28)


def money(rng: Random) -> str:
    """A price in dollars, with or without cents."""
    return (
        f"${rng.randint(2, 400)}"
        if rng.random() < 0.5
        else f"${rng.randint(1, 99)}.{rng.choice((0, 25, 49, 50, 95, 99)):02d}"
    )


def email_address(rng: Random) -> str:
    """An address at an invented company."""
    first, last = full_name(rng)
    user = rng.choice((first, f"{first}.{last}", f"{first[0]}{last}", f"{first}{rng.randint(1, 99)}", last)).lower()
    site = rng.choice(COMPANIES).replace(" ", "").lower()
    return f"{user}@{site}.{rng.choice(('com', 'org', 'net', 'co.uk', 'de', 'io'))}"


def listed(things: Sequence[str], last: str = "and") -> str:
    """``a, b and c``."""
    return f"{', '.join(things[:-1])} {last} {things[-1]}" if len(things) > 1 else things[0]
