"""Knowledge of words and the world: antonyms, translations, inflections, countries, animals, things, numerals.

Every operation is a lookup in a small closed table whose input is a bare word or numeral. Foreign words are written
without accents and, German nouns included, in lower case. Tables are compact strings: rows are separated by commas,
columns by blanks; an underscore inside a column stands for a blank ("Saudi_Arabia").
"""

from __future__ import annotations

from itertools import permutations

from lab.world.operations.operation import Operation

FAMILY = "lexicon"


def _rows(text: str) -> tuple[tuple[str, ...], ...]:
    """The rows of a compact table, each a tuple of its columns."""
    return tuple(tuple(cell.replace("_", " ") for cell in row.split()) for row in text.split(","))


def _column(rows: tuple[tuple[str, ...], ...], key: int, value: int) -> dict[str, str]:
    """A mapping from one column of the rows to another."""
    return {row[key]: row[value] for row in rows}


def _pairs(text: str) -> dict[str, str]:
    """A mapping from the first column of a compact table to the second."""
    return _column(_rows(text), 0, 1)


def _grouped(text: str) -> dict[str, str]:
    """A mapping from member to group, from lines such as ``fruit: apple pear``."""
    lines = (line.partition(":") for line in text.strip().splitlines())
    return {member.replace("_", " "): group.strip() for group, _, members in lines for member in members.split()}


_ANTONYMS = _pairs("""
    hot cold, cold hot, big small, small big, fast slow, slow fast, good bad, bad good, old young, young old, rich poor,
    poor rich, happy sad, sad happy, up down, down up, left right, open closed, empty full, full empty, early late,
    late early, long short, hard soft, soft hard, heavy light, high low, low high, wet dry, dry wet, dark bright,
    clean dirty, dirty clean, strong weak, weak strong, true false, false true, wide narrow, narrow wide, thick thin,
    thin thick, near far, far near, love hate, hate love, buy sell, win lose, push pull, give take, start stop,
    begin end, day night, war peace, friend enemy, deep shallow, loud quiet, brave cowardly, cheap expensive,
    inside outside, north south, east west""")

_SYNONYMS = _pairs("""
    big large, small little, fast quick, happy glad, sad unhappy, rich wealthy, smart clever, angry mad, begin start,
    end finish, buy purchase, shut close, sick ill, present gift, stone rock, road street, boat ship, kid child,
    hard difficult, easy simple, quiet silent, loud noisy, pretty beautiful, scared afraid, tired weary, thin slim,
    hot boiling, cold chilly, wet damp, strange odd, speak talk, look see, jump leap, yell shout, weep cry, help assist,
    repair fix, choose pick, error mistake, answer reply, brave bold, correct right, wrong incorrect, dad father,
    mom mother, rabbit bunny, autumn fall, film movie, evil wicked, huge enormous, tiny minute, car automobile""")

# English, French, Spanish, German, Italian, Portuguese, Dutch.
_WORDS = _rows("""
    dog chien perro hund cane cao hond, cat chat gato katze gatto gato kat,
    horse cheval caballo pferd cavallo cavalo paard, cow vache vaca kuh mucca vaca koe,
    bird oiseau pajaro vogel uccello passaro vogel, fish poisson pez fisch pesce peixe vis,
    house maison casa haus casa casa huis, window fenetre ventana fenster finestra janela raam,
    water eau agua wasser acqua agua water, bread pain pan brot pane pao brood, milk lait leche milch latte leite melk,
    wine vin vino wein vino vinho wijn, apple pomme manzana apfel mela maca appel,
    butter beurre mantequilla butter burro manteiga boter, tree arbre arbol baum albero arvore boom,
    flower fleur flor blume fiore flor bloem, sun soleil sol sonne sole sol zon, moon lune luna mond luna lua maan,
    night nuit noche nacht notte noite nacht, day jour dia tag giorno dia dag, book livre libro buch libro livro boek,
    chair chaise silla stuhl sedia cadeira stoel, bed lit cama bett letto cama bed, hand main mano hand mano mao hand,
    head tete cabeza kopf testa cabeca hoofd, heart coeur corazon herz cuore coracao hart,
    eye oeil ojo auge occhio olho oog, brother frere hermano bruder fratello irmao broer,
    sister soeur hermana schwester sorella irma zus, friend ami amigo freund amico amigo vriend,
    child enfant nino kind bambino crianca kind, man homme hombre mann uomo homem man,
    red rouge rojo rot rosso vermelho rood, white blanc blanco weiss bianco branco wit,
    black noir negro schwarz nero preto zwart, blue bleu azul blau blu azul blauw,
    city ville ciudad stadt citta cidade stad, street rue calle strasse strada rua straat,
    school ecole escuela schule scuola escola school, fire feu fuego feuer fuoco fogo vuur,
    snow neige nieve schnee neve neve sneeuw, rain pluie lluvia regen pioggia chuva regen,
    salt sel sal salz sale sal zout, sugar sucre azucar zucker zucchero acucar suiker,
    shoe chaussure zapato schuh scarpa sapato schoen, sea mer mar meer mare mar zee,
    forest foret bosque wald bosco floresta bos, good bon bueno gut buono bom goed,
    big grand grande gross grande grande groot, small petit pequeno klein piccolo pequeno klein,
    old vieux viejo alt vecchio velho oud, cold froid frio kalt freddo frio koud""")
LANGUAGES = ("english", "french", "spanish", "german", "italian", "portuguese", "dutch")

# Base, past, past participle, present participle, third person.
_VERBS = _rows("""
    go went gone going goes, see saw seen seeing sees, eat ate eaten eating eats, take took taken taking takes,
    give gave given giving gives, write wrote written writing writes, drive drove driven driving drives,
    speak spoke spoken speaking speaks, break broke broken breaking breaks, fly flew flown flying flies,
    know knew known knowing knows, grow grew grown growing grows, throw threw thrown throwing throws,
    draw drew drawn drawing draws, begin began begun beginning begins, drink drank drunk drinking drinks,
    sing sang sung singing sings, swim swam swum swimming swims, ring rang rung ringing rings,
    run ran run running runs, come came come coming comes, become became become becoming becomes,
    do did done doing does, fall fell fallen falling falls, steal stole stolen stealing steals,
    choose chose chosen choosing chooses, freeze froze frozen freezing freezes, wake woke woken waking wakes,
    hide hid hidden hiding hides, bite bit bitten biting bites, ride rode ridden riding rides,
    rise rose risen rising rises, shake shook shaken shaking shakes, wear wore worn wearing wears,
    tear tore torn tearing tears, forget forgot forgotten forgetting forgets, buy bought bought buying buys,
    think thought thought thinking thinks, bring brought brought bringing brings,
    catch caught caught catching catches, teach taught taught teaching teaches, sell sold sold selling sells,
    tell told told telling tells, make made made making makes, sleep slept slept sleeping sleeps,
    keep kept kept keeping keeps, leave left left leaving leaves, send sent sent sending sends,
    build built built building builds, lose lost lost losing loses, win won won winning wins,
    sit sat sat sitting sits, find found found finding finds, hear heard heard hearing hears,
    pay paid paid paying pays""")

_PLURALS = _rows("""
    dog dogs, cat cats, book books, house houses, tree trees, car cars, hand hands, chair chairs, apple apples,
    box boxes, fox foxes, bus buses, glass glasses, dish dishes, brush brushes, watch watches, church churches,
    bench benches, class classes, city cities, baby babies, lady ladies, story stories, country countries,
    party parties, berry berries, toy toys, key keys, boy boys, day days, leaf leaves, knife knives, wolf wolves,
    wife wives, shelf shelves, loaf loaves, thief thieves, half halves, potato potatoes, tomato tomatoes, hero heroes,
    man men, woman women, child children, foot feet, tooth teeth, goose geese, mouse mice, ox oxen, piano pianos,
    photo photos, roof roofs, window windows, shoe shoes""")

# Positive, comparative, superlative.
_DEGREES = _rows("""
    big bigger biggest, small smaller smallest, tall taller tallest, short shorter shortest, fast faster fastest,
    slow slower slowest, hot hotter hottest, cold colder coldest, thin thinner thinnest, fat fatter fattest,
    wet wetter wettest, sad sadder saddest, happy happier happiest, easy easier easiest, heavy heavier heaviest,
    early earlier earliest, busy busier busiest, funny funnier funniest, dirty dirtier dirtiest,
    pretty prettier prettiest, lucky luckier luckiest, angry angrier angriest, nice nicer nicest,
    large larger largest, wide wider widest, brave braver bravest, safe safer safest,
    late later latest, old older oldest, young younger youngest,
    long longer longest, high higher highest, low lower lowest, rich richer richest, poor poorer poorest,
    strong stronger strongest, weak weaker weakest, soft softer softest, loud louder loudest, dark darker darkest,
    deep deeper deepest, clean cleaner cleanest, sweet sweeter sweetest, good better best, bad worse worst,
    dry drier driest, cheap cheaper cheapest, warm warmer warmest""")

# Country, capital, continent, language, currency, demonym, code.
_COUNTRIES = _rows("""
    France Paris Europe French euro French FR, Germany Berlin Europe German euro German DE,
    Spain Madrid Europe Spanish euro Spanish ES, Italy Rome Europe Italian euro Italian IT,
    Portugal Lisbon Europe Portuguese euro Portuguese PT, Greece Athens Europe Greek euro Greek GR,
    Austria Vienna Europe German euro Austrian AT, Croatia Zagreb Europe Croatian euro Croatian HR,
    Netherlands Amsterdam Europe Dutch euro Dutch NL, Finland Helsinki Europe Finnish euro Finnish FI,
    Poland Warsaw Europe Polish zloty Polish PL, Hungary Budapest Europe Hungarian forint Hungarian HU,
    Romania Bucharest Europe Romanian leu Romanian RO, Sweden Stockholm Europe Swedish krona Swedish SE,
    Norway Oslo Europe Norwegian krone Norwegian NO, Denmark Copenhagen Europe Danish krone Danish DK,
    Iceland Reykjavik Europe Icelandic krona Icelandic IS, Ukraine Kyiv Europe Ukrainian hryvnia Ukrainian UA,
    Czechia Prague Europe Czech koruna Czech CZ, Albania Tirana Europe Albanian lek Albanian AL,
    Serbia Belgrade Europe Serbian dinar Serbian RS, Britain London Europe English pound British GB,
    Japan Tokyo Asia Japanese yen Japanese JP, China Beijing Asia Chinese yuan Chinese CN,
    Thailand Bangkok Asia Thai baht Thai TH, Vietnam Hanoi Asia Vietnamese dong Vietnamese VN,
    Mongolia Ulaanbaatar Asia Mongolian tugrik Mongolian MN, Indonesia Jakarta Asia Indonesian rupiah Indonesian ID,
    Malaysia Kuala_Lumpur Asia Malay ringgit Malaysian MY, Bangladesh Dhaka Asia Bengali taka Bangladeshi BD,
    Nepal Kathmandu Asia Nepali rupee Nepali NP, Iran Tehran Asia Persian rial Iranian IR,
    Iraq Baghdad Asia Arabic dinar Iraqi IQ, Saudi_Arabia Riyadh Asia Arabic riyal Saudi SA,
    Jordan Amman Asia Arabic dinar Jordanian JO, Egypt Cairo Africa Arabic pound Egyptian EG,
    Morocco Rabat Africa Arabic dirham Moroccan MA, Tunisia Tunis Africa Arabic dinar Tunisian TN,
    Algeria Algiers Africa Arabic dinar Algerian DZ, Kenya Nairobi Africa Swahili shilling Kenyan KE,
    Ethiopia Addis_Ababa Africa Amharic birr Ethiopian ET, Ghana Accra Africa English cedi Ghanaian GH,
    Nigeria Abuja Africa English naira Nigerian NG, Senegal Dakar Africa French franc Senegalese SN,
    Angola Luanda Africa Portuguese kwanza Angolan AO, Zambia Lusaka Africa English kwacha Zambian ZM,
    Brazil Brasilia South_America Portuguese real Brazilian BR, Chile Santiago South_America Spanish peso Chilean CL,
    Argentina Buenos_Aires South_America Spanish peso Argentine AR, Peru Lima South_America Spanish sol Peruvian PE,
    Colombia Bogota South_America Spanish peso Colombian CO, Uruguay Montevideo South_America Spanish peso Uruguayan UY,
    Mexico Mexico_City North_America Spanish peso Mexican MX, Cuba Havana North_America Spanish peso Cuban CU,
    Jamaica Kingston North_America English dollar Jamaican JM,
    Australia Canberra Oceania English dollar Australian AU""")

_BABIES = _pairs("""
    dog puppy, cat kitten, cow calf, horse foal, sheep lamb, goat kid, pig piglet, lion cub, tiger cub, bear cub,
    leopard cub, wolf pup, deer fawn, duck duckling, goose gosling, swan cygnet, hen chick, owl owlet, eagle eaglet,
    kangaroo joey, koala joey, frog tadpole, toad tadpole, butterfly caterpillar, elephant calf, whale calf,
    giraffe calf, dolphin calf, camel calf, hare leveret, rabbit kit, beaver kit, squirrel kit, seal pup, bat pup,
    fish fry, spider spiderling, fly maggot, bee larva, eel elver, zebra foal, donkey foal, turkey poult, pigeon squab,
    penguin chick, parrot chick, hedgehog hoglet""")

_SOUNDS = _pairs("""
    dog bark, cat meow, cow moo, horse neigh, sheep baa, goat bleat, pig oink, lion roar, tiger roar, wolf howl,
    duck quack, goose honk, hen cluck, rooster crow, owl hoot, frog croak, toad croak, snake hiss, bee buzz, fly buzz,
    wasp buzz, mouse squeak, bat squeak, elephant trumpet, donkey bray, bear growl, turkey gobble, pigeon coo, dove coo,
    crow caw, monkey chatter, dolphin click, cricket chirp, sparrow chirp, bird tweet, parrot squawk, hyena laugh,
    mosquito whine, whale sing, seal bark, chick cheep, kitten mew, bull bellow, eagle screech, puppy yap""")

_COLORS = _grouped("""
    yellow: banana lemon corn canary butter sunflower chick
    red: tomato blood strawberry ruby cherry rose fire_truck ladybug
    green: grass frog cucumber leaf emerald spinach pea broccoli cactus
    white: snow milk salt polar_bear swan rice cotton sheep sugar
    black: coal crow tar raven tire ink oil
    blue: sky sea sapphire jeans blueberry
    orange: carrot pumpkin tangerine goldfish apricot
    brown: chocolate bear coffee mud bark cinnamon
    gray: elephant mouse ash rhino concrete dolphin
    pink: pig flamingo piglet
    purple: eggplant grape lavender violet amethyst plum""")

_CATEGORIES = _grouped("""
    animal: dog horse tiger sheep frog elephant mouse
    fruit: apple banana cherry grape pear lemon plum
    vegetable: carrot onion spinach potato broccoli pea
    tool: hammer saw drill wrench pliers screwdriver shovel
    vehicle: car bus truck bicycle train tractor
    clothing: shirt coat sock jeans skirt glove sweater
    furniture: chair table bed sofa desk shelf
    instrument: piano violin drum flute guitar trumpet
    drink: milk coffee tea juice wine water
    metal: iron gold copper tin silver
    sport: tennis soccer hockey golf boxing""")

_MATERIALS = _grouped("""
    wood: table chair desk door bench pencil log barrel fence violin
    glass: window bottle jar mirror lens bulb
    paper: book map envelope poster newspaper stamp banknote
    metal: nail knife key coin spoon hammer bell wrench
    cotton: shirt sock towel bandage t-shirt
    wool: sweater scarf mitten
    leather: boot belt wallet saddle
    rubber: tire eraser balloon
    plastic: bucket comb toothbrush straw
    clay: brick flowerpot pottery
    stone: statue castle pyramid tombstone
    wax: candle crayon""")

(_UNITS,) = _rows("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen""")
(_TENS,) = _rows("zero ten twenty thirty forty fifty sixty seventy eighty ninety")
_IRREGULAR_ORDINALS = _pairs("one first, two second, three third, five fifth, eight eighth, nine ninth, twelve twelfth")
_ROMAN = ((90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))


def _number_word(number: int) -> str:
    """The English name of a number below one hundred."""
    if number < len(_UNITS):
        return _UNITS[number]
    tens, unit = divmod(number, 10)
    return f"{_TENS[tens]}-{_UNITS[unit]}" if unit else _TENS[tens]


def _ordinal_word(number: int) -> str:
    """The English ordinal of a positive number below one hundred."""
    head, hyphen, last = _number_word(number).rpartition("-")
    ordinal = _IRREGULAR_ORDINALS.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")
    return head + hyphen + ordinal


def _roman(number: int) -> str:
    """The Roman numeral of a positive number below one hundred."""
    numeral = ""
    for value, symbol in _ROMAN:
        count, number = divmod(number, value)
        numeral += symbol * count
    return numeral


_NUMBERS = tuple((str(n), _number_word(n), _ordinal_word(n), _roman(n)) for n in range(1, 100))

(_MONTHS,) = _rows("January February March April May June July August September October November December")
(_WEEKDAYS,) = _rows("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

_GENDERS = _rows("""
    king queen, prince princess, man woman, boy girl, father mother, son daughter, brother sister, uncle aunt,
    nephew niece, husband wife, grandfather grandmother, grandson granddaughter, actor actress, waiter waitress,
    host hostess, duke duchess, emperor empress, wizard witch, hero heroine, god goddess, lord lady, monk nun,
    groom bride, widower widow, gentleman gentlewoman, steward stewardess, heir heiress, bull cow, rooster hen,
    stallion mare, ram ewe, lion lioness, tiger tigress, stag doe, gander goose, drake duck, policeman policewoman""")

_ADVERBS = _pairs("""
    quick quickly, slow slowly, happy happily, easy easily, loud loudly, quiet quietly, sad sadly, angry angrily,
    careful carefully, beautiful beautifully, simple simply, gentle gently, good well, brave bravely, safe safely,
    true truly, final finally, usual usually, sudden suddenly, lucky luckily, heavy heavily, nice nicely, bad badly,
    polite politely, rapid rapidly, calm calmly, clear clearly, certain certainly, possible possibly, terrible terribly,
    basic basically, tragic tragically, magic magically, automatic automatically, real really, warm warmly,
    noisy noisily, lazy lazily, hungry hungrily, soft softly, strong strongly, wise wisely, silent silently,
    perfect perfectly, comfortable comfortably, serious seriously, poor poorly, deep deeply""")

_AGENTS = _pairs("""
    teach teacher, write writer, sing singer, dance dancer, drive driver, bake baker, paint painter, play player,
    run runner, swim swimmer, win winner, lose loser, build builder, farm farmer, hunt hunter, read reader,
    speak speaker, lead leader, help helper, work worker, act actor, direct director, sail sailor, visit visitor,
    invent inventor, invest investor, edit editor, translate translator, create creator, conduct conductor,
    collect collector, inspect inspector, govern governor, educate educator, manage manager, begin beginner, rob robber,
    travel traveler, design designer, photograph photographer, climb climber, jump jumper, dream dreamer, fight fighter,
    think thinker, buy buyer, sell seller, ride rider, assist assistant, study student, lie liar, beg beggar,
    type typist, tour tourist, guard guardian""")

_ELEMENTS = _pairs("""
    hydrogen H, helium He, lithium Li, beryllium Be, boron B, carbon C, nitrogen N, oxygen O, fluorine F, neon Ne,
    sodium Na, magnesium Mg, aluminum Al, silicon Si, phosphorus P, sulfur S, chlorine Cl, argon Ar, potassium K,
    calcium Ca, titanium Ti, chromium Cr, manganese Mn, iron Fe, cobalt Co, nickel Ni, copper Cu, zinc Zn, gallium Ga,
    arsenic As, selenium Se, bromine Br, krypton Kr, silver Ag, cadmium Cd, tin Sn, iodine I, xenon Xe, cesium Cs,
    barium Ba, tungsten W, platinum Pt, gold Au, mercury Hg, lead Pb, bismuth Bi, radon Rn, radium Ra, uranium U,
    plutonium Pu""")


def _translation(source: str, target: str) -> Operation:
    """The operation that translates a common word; only a foreign input gives its task away."""
    rows = _column(_WORDS, LANGUAGES.index(source), LANGUAGES.index(target))
    return Operation.table(f"{source}-to-{target}", FAMILY, rows, reveals=source != "english")


def _neighbours(items: str | tuple[str, ...], step: int) -> dict[str, str]:
    """Each item of a circular list with the one ``step`` places further on."""
    return {item: items[(place + step) % len(items)] for place, item in enumerate(items)}


def _written(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Names of months or weekdays in full, in short and in capitals."""
    return [names, tuple(name[:3] for name in names), tuple(name.upper() for name in names)]


def _calendar(names: tuple[str, ...], step: int) -> dict[str, str]:
    """Each month or weekday with the one ``step`` further on, written in the same way."""
    return {name: other for way in _written(names) for name, other in _neighbours(way, step).items()}


def _month_numbers() -> dict[str, str]:
    return {name: str(number) for way in _written(_MONTHS) for number, name in enumerate(way, start=1)}


OPERATIONS: tuple[Operation, ...] = (
    Operation.table("antonym", FAMILY, _ANTONYMS),
    Operation.table("synonym", FAMILY, _SYNONYMS),
    *(_translation("english", target) for target in LANGUAGES[1:]),
    *(_translation(source, "english") for source in LANGUAGES[1:]),
    *(_translation(source, target) for source, target in permutations(LANGUAGES[1:5], 2)),
    Operation.table("past-tense", FAMILY, _column(_VERBS, 0, 1)),
    Operation.table("past-participle", FAMILY, _column(_VERBS, 0, 2)),
    Operation.table("present-participle", FAMILY, _column(_VERBS, 0, 3)),
    Operation.table("third-person", FAMILY, _column(_VERBS, 0, 4)),
    Operation.table("plural", FAMILY, _column(_PLURALS, 0, 1)),
    Operation.table("singular", FAMILY, _column(_PLURALS, 1, 0)),
    Operation.table("comparative", FAMILY, _column(_DEGREES, 0, 1)),
    Operation.table("superlative", FAMILY, _column(_DEGREES, 0, 2)),
    Operation.table("country-to-capital", FAMILY, _column(_COUNTRIES, 0, 1)),
    Operation.table("capital-to-country", FAMILY, _column(_COUNTRIES, 1, 0), reveals=True),
    Operation.table("country-to-continent", FAMILY, _column(_COUNTRIES, 0, 2)),
    Operation.table("country-to-language", FAMILY, _column(_COUNTRIES, 0, 3)),
    Operation.table("country-to-currency", FAMILY, _column(_COUNTRIES, 0, 4)),
    Operation.table("country-to-demonym", FAMILY, _column(_COUNTRIES, 0, 5)),
    Operation.table("country-to-code", FAMILY, _column(_COUNTRIES, 0, 6)),
    Operation.table("animal-baby", FAMILY, _BABIES),
    Operation.table("animal-sound", FAMILY, _SOUNDS),
    Operation.table("thing-color", FAMILY, _COLORS),
    Operation.table("thing-category", FAMILY, _CATEGORIES),
    Operation.table("thing-material", FAMILY, _MATERIALS),
    Operation.table("number-word-to-digits", FAMILY, _column(_NUMBERS, 1, 0), reveals=True),
    Operation.table("digits-to-number-word", FAMILY, _column(_NUMBERS, 0, 1)),
    Operation.table("digits-to-ordinal-word", FAMILY, _column(_NUMBERS, 0, 2)),
    Operation.table("digits-to-roman", FAMILY, _column(_NUMBERS, 0, 3)),
    Operation.table("roman-to-digits", FAMILY, _column(_NUMBERS, 3, 0), reveals=True),
    Operation.table("next-month", FAMILY, _calendar(_MONTHS, 1), reveals=True),
    Operation.table("previous-month", FAMILY, _calendar(_MONTHS, -1), reveals=True),
    Operation.table("month-number", FAMILY, _month_numbers(), reveals=True),
    Operation.table("next-weekday", FAMILY, _calendar(_WEEKDAYS, 1), reveals=True),
    Operation.table("previous-weekday", FAMILY, _calendar(_WEEKDAYS, -1), reveals=True),
    Operation.table("next-letter", FAMILY, _neighbours(_LETTERS, 1) | _neighbours(_LETTERS.upper(), 1), reveals=True),
    Operation.table(
        "previous-letter", FAMILY, _neighbours(_LETTERS, -1) | _neighbours(_LETTERS.upper(), -1), reveals=True
    ),
    Operation.table("gender-counterpart", FAMILY, _column(_GENDERS, 0, 1) | _column(_GENDERS, 1, 0)),
    Operation.table("adjective-to-adverb", FAMILY, _ADVERBS),
    Operation.table("verb-to-agent", FAMILY, _AGENTS),
    Operation.table("element-symbol", FAMILY, _ELEMENTS, reveals=True),
)
