"""Numbers, money and units."""

from __future__ import annotations

from random import Random

from lab.content import FIRST_NAMES, LISTS, PRODUCTS
from lab.tasks import Catalogue

CATALOGUE = Catalogue()
task, table = CATALOGUE.task, CATALOGUE.table

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = [".", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def spoken(number: int) -> str:
    """The English name of a number below ten thousand."""
    if number >= 1000:
        rest = f" {spoken(number % 1000)}" if number % 1000 else ""
        return f"{spoken(number // 1000)} thousand{rest}"
    if number >= 100:
        rest = f" {spoken(number % 100)}" if number % 100 else ""
        return f"{_ONES[number // 100]} hundred{rest}"
    return _ONES[number] if number < 20 else _TENS[number // 10] + (f"-{_ONES[number % 10]}" if number % 10 else "")


def _scaled(name: str, wordings: str, factor: int, source: str, target: str, numbers: range, split="train") -> None:
    @task(name, "units", wordings, split)
    def _(rng: Random):
        number = rng.choice(numbers)
        return f"{number} {source}", f"{number * factor} {target}"


_scaled(
    "meters_to_centimeters",
    """
    Convert meters to centimeters.
    m to cm
    How many centimeters is that?
    Please write the length in cm.
    Give the same length in centimeters instead of meters.
    One meter has 100 centimeters. Convert.
    I need the length in centimeters, with the unit.
    Express the meters as centimetres.
    turn m into cm pls
    What is this in cm?
    """,
    100,
    "m",
    "cm",
    range(1, 120),
)
_scaled(
    "kilograms_to_grams",
    """
    Convert kilograms to grams.
    kg to g
    How many grams is that?
    Please write the weight in grams.
    Give the same weight in g instead of kg.
    One kilogram has 1000 grams. Convert.
    I need the weight in grams, with the unit g.
    My scale shows grams only; what will it show?
    turn kg into g pls
    What is this in grams?
    """,
    1000,
    "kg",
    "g",
    range(1, 120),
)
_scaled(
    "feet_to_inches",
    """
    Convert feet to inches.
    ft to in
    How many inches is that?
    Please write the length in inches.
    One foot has 12 inches. Convert.
    Give the height in inches instead of feet.
    Express the feet as inches, with the unit in.
    I need this length in inches.
    turn ft into inches
    What is this in inches?
    """,
    12,
    "ft",
    "in",
    range(1, 80),
    "validation",
)
_scaled(
    "weeks_to_days",
    """
    How many days are in that many weeks?
    Convert weeks to days.
    weeks -> days
    Please write the time in days.
    One week has seven days. Convert.
    Give the same time in days instead of weeks.
    Express the weeks as days.
    I need to know how many days that is.
    in days pls
    For how many days does it last?
    """,
    7,
    "weeks",
    "days",
    range(2, 90),
    "exam",
)
_scaled(
    "euros_to_cents",
    """
    How many cents is that?
    Convert euros to cents.
    euros in cents
    Please write the amount in cents.
    One euro has 100 cents. Convert.
    Give the amount in cents instead of euros.
    Express the euros as cents.
    The machine counts in cents. What will it say?
    to cents pls
    What is the amount in cents?
    """,
    100,
    "euros",
    "cents",
    range(1, 200),
)


@task("cents_to_dollars", "units", """
    Write the cents as dollars, like $2.50.
    Convert cents to dollars.
    250 cents are $2.50. And this?
    Please give the amount in dollars with two decimals.
    How many dollars is that? Use the dollar sign.
    cents -> $
    My coins add up to so many cents; write it as a price in dollars.
    Express the amount as dollars and cents with a point.
    Put it as a dollar price.
    What is it in dollars?
    """, "exam")  # fmt: skip
def _(rng: Random):
    cents = rng.randint(5, 1999)
    return f"{cents} cents", f"${cents // 100}.{cents % 100:02d}"


@task("percent_to_decimal", "numbers", """
    Write the percentage as a decimal number.
    25% becomes 0.25. Do the same.
    Percent to decimal.
    Please turn the percent value into a decimal fraction.
    Divide the percentage by 100.
    As a decimal?
    For the formula I need the percentage as a number between 0 and 1.
    Convert % to decimal, two places.
    How do I write this percentage with a decimal point?
    decimal pls
    """)  # fmt: skip
def _(rng: Random):
    number = rng.randint(1, 99)
    return f"{number}%", f"0.{number:02d}"


@task("decimal_to_percent", "numbers", """
    Write the decimal number as a percentage.
    0.25 becomes 25%. Do the same.
    Decimal to percent.
    Please turn the decimal fraction into percent.
    Multiply by 100 and add the percent sign.
    What percentage is that?
    The report needs percent, not decimals.
    Convert to %.
    How many percent is this number?
    percent pls
    """, "exam")  # fmt: skip
def _(rng: Random):
    number = rng.randint(1, 99)
    return f"0.{number:02d}", f"{number}%"


@task("thousands_separator", "numbers", """
    Put commas into the number, like 1,234,567.
    Add thousands separators.
    Write 1234567 as 1,234,567. Do so with this number.
    Please make the large number readable with commas.
    commas every three digits pls
    Format the number with commas for the thousands.
    How is the number written with thousands commas?
    Group the digits in threes with a comma.
    The number is hard to read. Insert commas.
    Insert the separators for thousands.
    """)  # fmt: skip
def _(rng: Random):
    number = rng.randint(1000, 10 ** rng.randint(4, 8))
    return str(number), f"{number:,}"


@task("short_to_full_number", "numbers", """
    Write the short number in full: 5k is 5000, 2M is 2000000.
    Expand k and M.
    12k -> 12000
    Please spell out the abbreviated number with all its zeros.
    k means thousand and M million. Give the full number.
    What is the number without the letter?
    On social media they write 3k. Turn it into digits.
    Replace the k or M by zeros.
    full number pls
    How much is that in plain digits?
    """, "validation")  # fmt: skip
def _(rng: Random):
    number, letter = rng.randint(1, 400), rng.choice("kkM")
    return f"{number}{letter}", str(number * (1000 if letter == "k" else 1_000_000))


@task("number_words_to_digits", "numbers", """
    Write the number with digits.
    Number words to digits.
    two hundred five is 205. Do the same.
    Please turn the spelled-out number into figures.
    in digits pls
    Which number is that? Use figures.
    Someone wrote the amount in words on the check; type it as digits.
    Convert the words into a number.
    How is that number written in figures?
    Give the numeral for these words.
    """)  # fmt: skip
def _(rng: Random):
    number = rng.choice((rng.randint(100, 999), rng.randint(1000, 9999), rng.randint(13, 999)))
    return spoken(number), str(number)


@task("digits_to_words_long", "numbers", """
    Spell out the number in words.
    Number to words.
    205 is two hundred five. Do the same.
    Please write this figure out in English words.
    words pls
    How do you say this number?
    For the check I need the amount in words.
    Turn the digits into words.
    Read the number aloud, in writing.
    What is this number in words?
    """)  # fmt: skip
def _(rng: Random):
    number = rng.choice((rng.randint(100, 999), rng.randint(1000, 9999)))
    return str(number), spoken(number)


@task("round_to_integer", "numbers", """
    Round to the nearest whole number.
    Round it.
    No decimals: give the nearest integer.
    Please round this number up or down to a whole one.
    3.7 becomes 4 and 3.2 becomes 3. Do the same.
    round pls
    What is it, rounded to an integer?
    The decimals are too much detail. Round.
    Give the closest whole number.
    Rounded to the unit, what is the number?
    """)  # fmt: skip
def _(rng: Random):
    whole, part = rng.randint(0, 99), rng.choice((1, 2, 3, 4, 6, 7, 8, 9))
    text = f"{whole}.{part}{rng.choice(('', rng.randint(0, 9)))}"
    return text, str(whole + (part > 5))


@task("largest_number", "numbers", """
    Which number is the largest?
    Give the biggest number of the list.
    max
    Find the maximum.
    Please return the highest of these numbers.
    Which one is the greatest? Copy it.
    Out of all the numbers I want the largest.
    Look through the numbers and give back the top value.
    largest nr pls
    What is the maximum of the list?
    """)  # fmt: skip
def _(rng: Random):
    numbers = rng.sample(range(1, 500), rng.randint(3, 6))
    return ", ".join(map(str, numbers)), str(max(numbers))


@task("smallest_number", "numbers", """
    Which number is the smallest?
    Give the lowest number of the list.
    min
    Find the minimum.
    Please return the smallest of these numbers.
    Which one is the least? Copy it.
    Out of all the numbers I want the lowest.
    Look through the numbers and give back the bottom value.
    smallest nr pls
    What is the minimum of the list?
    """)  # fmt: skip
def _(rng: Random):
    numbers = rng.sample(range(1, 500), rng.randint(3, 6))
    return ", ".join(map(str, numbers)), str(min(numbers))


@task("sum_of_list", "numbers", """
    Add up all the numbers.
    Sum of the list.
    total?
    What do the numbers add up to?
    Please give the sum of these numbers.
    Calculate the total of the listed numbers.
    Add them together and tell me the result.
    How much is it all together?
    sum pls
    Put plus signs between the numbers and compute.
    """)  # fmt: skip
def _(rng: Random):
    numbers = [rng.randint(1, 20) for _ in range(rng.randint(3, 4))]
    return rng.choice((", ", " ")).join(map(str, numbers)), str(sum(numbers))


@task("even_numbers_only", "numbers", """
    Keep only the even numbers.
    Remove the odd numbers from the list.
    even ones only
    Which of these numbers are even? List them.
    Please delete every odd number and keep the order.
    Filter the list: even numbers stay.
    Give back the numbers that can be divided by two.
    Throw out what is odd.
    just the evens pls
    List the even numbers among these.
    """)  # fmt: skip
def _(rng: Random):
    while True:
        numbers = rng.sample(range(1, 100), rng.randint(4, 7))
        even = [number for number in numbers if number % 2 == 0]
        if even:
            return ", ".join(map(str, numbers)), ", ".join(map(str, even))


@task("numbers_over_ten", "numbers", """
    Keep only the numbers greater than 10.
    Which numbers are over 10? List them.
    drop everything up to ten
    Please filter the list: only numbers above ten stay.
    Remove all numbers that are 10 or less.
    Only numbers larger than ten, in the same order.
    Give back the ones with a value above 10.
    Numbers > 10 only.
    Throw away small numbers, 10 and below.
    List what exceeds ten.
    """, "validation")  # fmt: skip
def _(rng: Random):
    while True:
        numbers = rng.sample(range(1, 30), rng.randint(4, 7))
        large = [number for number in numbers if number > 10]
        if large and len(large) < len(numbers):
            return ", ".join(map(str, numbers)), ", ".join(map(str, large))


@task("cheapest_item", "numbers", """
    Which item is the cheapest?
    Name the thing with the lowest price.
    cheapest?
    Find the best price and name the item.
    Please tell me which of these costs least.
    I have little money. Which one should I take?
    Return the article with the smallest price, without the price.
    What is the least expensive item?
    Compare the prices and give the cheapest thing.
    lowest price item pls
    """)  # fmt: skip
def _(rng: Random):
    things = rng.sample(LISTS["grocery"], rng.randint(2, 4))
    prices = rng.sample(range(1, 30), len(things))
    return ", ".join(f"{thing} ${price}" for thing, price in zip(things, prices, strict=True)), things[
        prices.index(min(prices))
    ]


@task("highest_score", "numbers", """
    Who has the most points?
    Name the winner, the person with the highest score.
    winner?
    Which player scored highest?
    Please tell me who won, going by the points.
    Compare the scores and give the best player's name.
    The most points win. Who is it?
    Return the name next to the largest number.
    top scorer pls
    Who is in first place?
    """)  # fmt: skip
def _(rng: Random):
    names = rng.sample(FIRST_NAMES, rng.randint(2, 4))
    points = rng.sample(range(1, 99), len(names))
    form = rng.choice(("{n}: {p}", "{n} {p} points", "{n} ({p})"))
    return ", ".join(form.format(n=n, p=p) for n, p in zip(names, points, strict=True)), names[
        points.index(max(points))
    ]


@task("youngest_person", "numbers", """
    Who is the youngest?
    Name the youngest person.
    youngest?
    Which of them has lived the fewest years?
    Please tell me the name of the person with the lowest age.
    Compare the ages and name the youngest.
    Children first: who has the smallest age?
    Return the name of the one who was born last.
    Who is younger than all the others?
    the youngest one pls
    """, "exam")  # fmt: skip
def _(rng: Random):
    names = rng.sample(FIRST_NAMES, rng.randint(2, 3))
    ages = rng.sample(range(3, 90), len(names))
    return ", ".join(f"{n} is {p}" for n, p in zip(names, ages, strict=True)) + ".", names[ages.index(min(ages))]


@task("half_price", "numbers", """
    Everything is half price. What is the new price?
    Halve the price.
    50% off: new price?
    Please give the price after a discount of fifty percent.
    What do I pay if it costs half as much?
    Cut the price in two.
    Sale! Half off. Write the new price with the dollar sign.
    The price is divided by two. Answer with the result.
    half of that price pls
    How much is it at half price?
    """)  # fmt: skip
def _(rng: Random):
    price = 2 * rng.randint(1, 150)
    return rng.choice(
        (f"${price}", f"{rng.choice(PRODUCTS)} ${price}", f"The {rng.choice(PRODUCTS)} costs ${price}.")
    ), f"${price // 2}"


@task("change_from_twenty", "numbers", """
    I pay with 20 dollars. How much change do I get?
    Change from $20.
    20 dollars minus the price?
    Please tell me the change when I give a twenty-dollar bill.
    What is left of twenty dollars after I buy this?
    Compute the money I get back from $20.
    I hand over $20. How much comes back?
    Subtract the price from 20 dollars.
    change pls (paid 20)
    How much of my 20 dollars remains?
    """, "exam")  # fmt: skip
def _(rng: Random):
    price = rng.randint(1, 19)
    return rng.choice(
        (f"${price}", f"{rng.choice(LISTS['grocery'])} for ${price}", f"It costs ${price}.")
    ), f"${20 - price}"


@task("total_of_order", "numbers", """
    How much is it in all? Multiply quantity and price.
    Total of the line.
    3 at $4 makes $12. And this?
    Please calculate the total price.
    What do I have to pay for all of them?
    Quantity times price, with the dollar sign.
    Give the sum for this order line.
    total price pls
    How many dollars does the whole order cost?
    Compute the amount due.
    """)  # fmt: skip
def _(rng: Random):
    number, price, thing = rng.randint(2, 10), rng.randint(2, 10), rng.choice(LISTS["grocery"])
    return rng.choice(
        (
            f"{number} x {thing} at ${price}",
            f"{number} {thing}, ${price} each",
            f"{thing}: {number} pieces, ${price} per piece",
        )
    ), f"${number * price}"


@task("small_word_problem", "numbers", """
    Solve the little story problem. Answer with a number.
    How many are there in the end?
    number only
    Read the story and work out how many are left.
    Please answer the question with a single number.
    Primary school math: what is the result?
    Calculate what the story asks for.
    How many does the person have now? Digits only.
    Do the sum hidden in the text.
    solve it
    """)  # fmt: skip
def _(rng: Random):
    name, other = rng.sample(FIRST_NAMES, 2)
    thing = rng.choice(("apples", "books", "coins", "stickers", "marbles", "pens", "cards", "eggs"))
    a, b = rng.randint(2, 20), rng.randint(1, 12)
    if rng.random() < 0.5:
        return f"{name} has {a} {thing}. {other} gives {name} {b} more. How many {thing} does {name} have?", str(a + b)
    a += b
    return f"{name} has {a} {thing} and gives {b} to {other}. How many {thing} are left?", str(a - b)


table("unit_abbreviation", "units", """
    Write the unit in full.
    What does the abbreviation of the unit stand for?
    kg is kilogram. And this?
    Please expand the unit's symbol.
    Full name of the unit.
    Which unit is meant?
    Spell out this unit of measurement.
    unit name pls
    The recipe uses a short form; give the long form of the unit.
    Say the unit's whole name, singular.
    """, {
    "kg": "kilogram", "g": "gram", "mg": "milligram", "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter",
    "l": "liter", "ml": "milliliter", "lb": "pound", "oz": "ounce", "ft": "foot", "in": "inch", "yd": "yard", "mi": "mile",
    "h": "hour", "min": "minute", "s": "second", "V": "volt", "W": "watt", "A": "ampere", "Hz": "hertz", "tsp": "teaspoon", "tbsp": "tablespoon", "gal": "gallon", "pt": "pint",
}, "exam")  # fmt: skip


@task("currency_in_words", "units", """
    Write the amount with the currency as a word.
    €5 becomes 5 euros. Do the same.
    Replace the currency sign by its name.
    Please spell out the currency.
    $7 -> 7 dollars
    How would you say this amount? Number, then the currency.
    Name the currency after the number.
    no symbols pls, say dollars, euros, pounds or yen
    For the letter, write the currency in words behind the number.
    Turn the money sign into a word.
    """)  # fmt: skip
def _(rng: Random):
    sign, name = rng.choice((("$", "dollars"), ("€", "euros"), ("£", "pounds"), ("¥", "yen")))
    number = rng.randint(2, 900)
    return f"{sign}{number}", f"{number} {name}"


@task("compare_numbers", "numbers", """
    Put <, > or = between the two numbers.
    Compare: <, > or =?
    Which sign goes in the gap, <, > or =?
    Please reply with the sign that makes it true: <, > or =.
    Is the first number smaller (<), larger (>) or equal (=)?
    sign only
    Fill in the comparison sign.
    Write < if the left is smaller, > if it is larger, = if they are the same.
    Left against right: >, < or =.
    Choose the right sign for the pair.
    """)  # fmt: skip
def _(rng: Random):
    first = rng.randint(1, 200)
    second = first if rng.random() < 0.3 else rng.randint(1, 200)
    return (
        f"{first} {rng.choice(('_', '?', 'and'))} {second}",
        "<" if first < second else ">" if first > second else "=",
    )


@task("count_things", "numbers", """
    How many things are there in all? Add the quantities.
    Total number of things.
    2 cups and 3 plates make 5. And this?
    Please count everything together.
    Sum the quantities, number only.
    How many objects will I carry?
    Add up the numbers in the text.
    count of all items pls
    What is the overall number of pieces?
    All together, how many?
    """)  # fmt: skip
def _(rng: Random):
    things = rng.sample(
        ("apples", "cups", "books", "chairs", "pens", "eggs", "plates", "coins", "socks", "candles"), rng.randint(2, 3)
    )
    numbers = [rng.randint(2, 12) for _ in things]
    return " and ".join(f"{n} {t}" for n, t in zip(numbers, things, strict=True)), str(sum(numbers))


@task("next_in_sequence", "numbers", """
    Which number comes next?
    Continue the sequence with one number.
    next?
    Find the rule and give the next number.
    Please say what follows in the row.
    Complete the series: one more number.
    What is the number after the last one shown?
    The steps are equal. Give the following number.
    Put one more number at the end.
    next nr in the row pls
    """)  # fmt: skip
def _(rng: Random):
    start, step = rng.randint(1, 40), rng.randint(1, 10)
    numbers = [start + step * place for place in range(5)]
    return ", ".join(map(str, numbers[:4])), str(numbers[4])


@task("missing_in_sequence", "numbers", """
    Which number is missing?
    Fill the gap in the sequence.
    gap?
    Replace the question mark by the right number.
    Please find the number left out of the row.
    One number of the series is hidden. Which?
    The steps are equal; what belongs in the place of the ?
    Give the number that should stand at the question mark.
    Complete the row.
    missing nr pls
    """, "exam")  # fmt: skip
def _(rng: Random):
    start, step, gap = rng.randint(1, 40), rng.randint(1, 6), rng.randint(1, 3)
    numbers = [str(start + step * place) for place in range(5)]
    answer, numbers[gap] = numbers[gap], "?"
    return ", ".join(numbers), answer
