"""Lists, tables, JSON and other formats: reading a field, changing the form, sorting, counting."""

from __future__ import annotations

import json
from random import Random

from lab.content import FIRST_NAMES, LISTS, SURNAMES, items, listed
from lab.tasks import Catalogue

CATALOGUE = Catalogue()
task = CATALOGUE.task


def _record(rng: Random) -> dict[str, str | int]:
    """A person as a form holds one."""
    return {
        "name": rng.choice(FIRST_NAMES),
        "age": rng.randint(5, 90),
        "city": rng.choice(LISTS["city"]),
        "job": rng.choice(LISTS["job"]),
        "color": rng.choice(LISTS["color"]),
    }


def _some(rng: Random, *needed: str) -> dict[str, str | int]:
    record = _record(rng)
    names = [name for name in record if name in needed or rng.random() < 0.6]
    rng.shuffle(names)
    return {name: record[name] for name in names}


@task("sort_list", "lists", """
    Sort the list alphabetically.
    Put the items in ABC order.
    a to z pls
    Order these words by the alphabet, keep the commas.
    Please arrange the list from A to Z.
    What is the list in alphabetical order?
    My shopping list should be sorted by first letter.
    Rearrange the entries alphabetically.
    Alphabetize the list.
    Give the items back in dictionary order.
    """)  # fmt: skip
def _(rng: Random):
    things = items(rng, 3, 6)
    return ", ".join(things), ", ".join(sorted(things, key=str.casefold))


@task("reverse_list", "lists", """
    Reverse the order of the list.
    Last item first.
    list backwards pls
    Turn the list around so that it ends with the first item.
    Please give the items in the opposite order.
    What is the list from the end to the beginning?
    Write the entries from last to first.
    Flip the order of the items.
    Return the list in reverse.
    I need the queue the other way round.
    """)  # fmt: skip
def _(rng: Random):
    things = items(rng, 3, 6)
    return ", ".join(things), ", ".join(reversed(things))


@task("sort_by_length", "lists", """
    Sort the words from short to long.
    Order the words by their length, shortest first.
    shortest first pls
    Arrange the list by number of letters.
    Please put short words before long ones.
    Which order do the words have when sorted by length?
    Rank the words by how many letters they have.
    From the shortest to the longest word, rewrite the list.
    Line the words up by size.
    Short to long.
    """)  # fmt: skip
def _(rng: Random):
    while True:
        things = items(rng, 3, 5)
        if len({len(thing) for thing in things}) == len(things):
            return ", ".join(things), ", ".join(sorted(things, key=len))


@task("numbered_lines", "lists", """
    Make a numbered list, one item on each line.
    Number the items: 1., 2., 3., each on its own line.
    numbered list pls
    Turn the comma list into lines that start with a number and a dot.
    Please write each item on a new line with its number.
    I want 1. first, 2. second and so on, below each other.
    Format as an ordered list.
    Give every entry a number and a line of its own.
    Convert the list to a numbered one.
    How does it look as a numbered list?
    """)  # fmt: skip
def _(rng: Random):
    things = items(rng, 2, 5)
    return ", ".join(things), "\n".join(f"{place}. {thing}" for place, thing in enumerate(things, 1))


@task("bullet_lines", "lists", """
    Make a bullet list with dashes, one item on each line.
    Put every item on a new line after a dash.
    bullets pls
    Turn the comma list into bullet points.
    Please write the items below each other, each with "- " in front.
    As a bulleted list, one thing per line.
    Format the list as markdown bullets with -.
    Break the list into lines that begin with a dash.
    Each entry becomes a bullet point.
    How would that be as bullet points?
    """, "exam")  # fmt: skip
def _(rng: Random):
    things = items(rng, 2, 5)
    return ", ".join(things), "\n".join(f"- {thing}" for thing in things)


@task("join_with_and", "lists", """
    Write the list with "and" before the last item.
    a, b, c becomes a, b and c.
    Put an and into the list.
    Please join the items the way one says them in a sentence.
    Replace the last comma by "and".
    and pls
    Make it sound natural: commas, then "and" before the final one.
    For a sentence I need the list with and at the end.
    Connect the last two items with and.
    How would you read out this list?
    """)  # fmt: skip
def _(rng: Random):
    things = items(rng, 2, 5)
    return ", ".join(things), listed(things)


@task("and_to_commas", "lists", """
    Make a plain comma list out of the phrase.
    a, b and c becomes a, b, c.
    Replace "and" by a comma.
    Please list the things with commas only.
    commas only pls, no and
    Take the things out of the phrase and separate them by commas.
    I need the items comma-separated.
    Write the enumeration without the word and.
    Turn the enumeration into a comma list.
    Only commas between the things.
    """, "validation")  # fmt: skip
def _(rng: Random):
    things = items(rng, 2, 5)
    return listed(things), ", ".join(things)


@task("merge_lists", "lists", """
    Put the two lists together into one.
    Join both lists.
    one list pls
    Append the second list to the first.
    Please merge the lists, first one first.
    Combine the two lists with a comma between all items.
    Make a single list of both.
    What is the list when the second follows the first?
    Add the items after the bar to those before it.
    Unite the lists.
    """)  # fmt: skip
def _(rng: Random):
    first, second = items(rng, 2, 3), items(rng, 2, 3)
    return f"{', '.join(first)} | {', '.join(second)}", ", ".join(first + second)


@task("common_items", "lists", """
    Which item is in both lists?
    Find the common item.
    in both?
    Name what the two lists share.
    Please tell me which thing stands left and right of the bar.
    One entry occurs in both lists. Which one?
    Give the overlap of the lists.
    What do both people have?
    Return the item that is not only in one list.
    the shared one pls
    """)  # fmt: skip
def _(rng: Random):
    things = items(rng, 5, 6)
    shared, rest = things[0], things[1:]
    first, second = [shared, *rest[:2]], [shared, *rest[2:]]
    rng.shuffle(first)
    rng.shuffle(second)
    return f"{', '.join(first)} | {', '.join(second)}", shared


@task("missing_from_second", "lists", """
    Which item of the first list is missing in the second?
    What did we forget? Compare the lists.
    missing?
    Name what is only in the first list.
    Please find the item that the second list lacks.
    The first list is what we need, the second what we have. What is still needed?
    Which thing is gone in the second list?
    Return the entry that stands left of the bar and not right of it.
    What disappeared from the list?
    the missing one pls
    """)  # fmt: skip
def _(rng: Random):
    things = items(rng, 3, 5)
    missing = rng.choice(things)
    second = [thing for thing in things if thing != missing]
    rng.shuffle(second)
    return f"{', '.join(things)} | {', '.join(second)}", missing


@task("odd_one_out", "lists", """
    Which word does not belong?
    Find the odd one out.
    odd one?
    One thing is of another kind. Name it.
    Please say which item does not fit with the others.
    Which of these is the intruder?
    All but one go together; give the one that does not.
    Spot the word that does not match the rest.
    The stranger in the list, please.
    Which is different in kind from the others?
    """)  # fmt: skip
def _(rng: Random):
    kinds = ("fruit", "animal", "city", "tool", "clothes", "sport", "instrument", "furniture", "job")
    kind, other = rng.sample(kinds, 2)
    things, odd = rng.sample(LISTS[kind], 3), rng.choice(LISTS[other])
    things.insert(rng.randint(0, 3), odd)
    return ", ".join(things), odd


@task("name_of_group", "lists", """
    What are all these things? Name the group in the plural.
    Common name for the items.
    group?
    Find one word for all of them.
    Please give the category of the listed things.
    What do you call these things together?
    Which heading would you put above the list?
    Sum the list up in a plural noun.
    They are all what?
    one word for them pls
    """)  # fmt: skip
def _(rng: Random):
    kind, name = rng.choice(
        (
            ("fruit", "fruits"),
            ("vegetable", "vegetables"),
            ("animal", "animals"),
            ("city", "cities"),
            ("color", "colors"),
            ("tool", "tools"),
            ("drink", "drinks"),
            ("country", "countries"),
            ("clothes", "clothes"),
            ("sport", "sports"),
            ("instrument", "instruments"),
            ("furniture", "furniture"),
            ("job", "jobs"),
            ("subject", "school subjects"),
            ("chore", "chores"),
        )
    )
    return ", ".join(rng.sample(LISTS[kind], rng.randint(3, 4))), name


@task("items_with_letter", "lists", """
    Keep only the items that start with the given letter.
    Which of the words begin with the letter in front?
    Filter by first letter.
    Before the colon stands a letter; list the words that start with it.
    Please return the words beginning with that letter.
    Only entries with this initial.
    Pick out those that start with the letter.
    Take the words with the right first letter.
    same initial only pls
    Drop every word that starts with another letter.
    """)  # fmt: skip
def _(rng: Random):
    while True:
        things = [thing.lower() for thing in items(rng, 4, 6)]
        letter, shown = things[0][0], rng.sample(things, len(things))
        kept = [thing for thing in shown if thing[0] == letter]
        if len(kept) < len(things):
            return f"{letter}: {', '.join(shown)}", ", ".join(kept)


@task("capitalize_items", "lists", """
    Start every item with a capital letter.
    apple, pear becomes Apple, Pear.
    Capitalize each item of the list.
    Please give every entry a capital at the beginning.
    first letters big pls
    Make the first letter of each item upper case.
    The list should look neat: capitalize the items.
    Every word of the list begins with a capital.
    Change the initial of each entry to upper case.
    Capital letter in front, for all items.
    """)  # fmt: skip
def _(rng: Random):
    things = [thing.split()[0].lower() for thing in items(rng, 2, 5)]
    return ", ".join(things), ", ".join(thing.capitalize() for thing in things)


@task("pluralize_items", "lists", """
    Put every item into the plural.
    dog, cat becomes dogs, cats.
    plural of each item
    Make all the words plural.
    Please write the list with more than one of each.
    Change the singular nouns to plural nouns.
    Each item should be in the plural form.
    more than one of everything pls
    Give the plurals, separated by commas.
    What are the plural forms?
    """)  # fmt: skip
def _(rng: Random):
    things = rng.sample(
        (
            "dog",
            "cat",
            "apple",
            "pear",
            "car",
            "chair",
            "table",
            "book",
            "pen",
            "tree",
            "house",
            "bird",
            "flower",
            "spoon",
            "cup",
            "hat",
            "bottle",
            "window",
            "door",
            "boat",
            "horse",
            "key",
            "bag",
            "star",
        ),
        rng.randint(2, 4),
    )
    return ", ".join(things), ", ".join(f"{thing}s" for thing in things)


@task("list_to_json", "formats", """
    Write the list as a JSON array.
    a, b becomes ["a", "b"].
    json list pls
    Convert the comma list to JSON.
    Please give the items as an array of strings.
    Programmers want it as ["x", "y"]. Convert.
    Put the items in double quotes and the whole in square brackets.
    How does the list look in JSON?
    Format as a JSON list.
    Turn it into an array of quoted words.
    """)  # fmt: skip
def _(rng: Random):
    things = items(rng, 2, 4)
    return ", ".join(things), json.dumps(things)


@task("json_to_list", "formats", """
    Write the JSON array as a plain comma list.
    ["a", "b"] becomes a, b.
    plain list pls
    Remove brackets and quotes.
    Please turn the array into words separated by commas.
    Convert the JSON list to normal text.
    Read the array and write its items with commas.
    No code, just the items.
    What are the items of this array?
    Strip the JSON and leave the list.
    """, "validation")  # fmt: skip
def _(rng: Random):
    things = items(rng, 2, 4)
    return json.dumps(things), ", ".join(things)


def _field(name: str, wordings: str, split="train") -> None:
    @task(f"json_{name}", "formats", wordings, split)
    def _(rng: Random):
        record = _some(rng, name, "job")
        return json.dumps(record), str(record[name])


_field(
    "name",
    """
    What is the name in the JSON?
    Get the value of "name".
    name field
    Read the JSON object and return the name.
    Please extract the field name.
    Give me obj["name"].
    Who is the record about?
    Return the value stored under the key name.
    Which name does the record hold?
    name value pls
    """,
)
_field(
    "city",
    """
    What is the city in the JSON?
    Get the value of "city".
    city field
    Read the JSON object and return the city.
    Please extract the field city.
    Give me obj["city"].
    In which city does the person of the record live?
    Return the value stored under the key city.
    Which town does the record hold?
    city value pls
    """,
)


@task("json_keys", "formats", """
    List the keys of the JSON object.
    Which keys does the object have?
    keys only
    Name the fields of the JSON, separated by commas.
    Please return the names of all fields, not the values.
    What are the field names?
    Give the keys in order with commas.
    From {"a": 1, "b": 2} I want a, b. Do the same.
    Read out the keys of this record.
    the keys pls, no values
    """, "exam")  # fmt: skip
def _(rng: Random):
    record = _some(rng, "name", "age")
    return json.dumps(record), ", ".join(record)


@task("json_to_lines", "formats", """
    Write the JSON as lines of the form key: value.
    One line a field: key, colon, value.
    as plain lines pls
    Turn the object into readable lines.
    Please show every field on its own line like name: Anna.
    Convert the JSON to key: value lines.
    Print the record, each field on a new line.
    Make the JSON readable for people, one field a line.
    Fields below each other, no brackets, no quotes.
    How does the record read as simple lines?
    """)  # fmt: skip
def _(rng: Random):
    record = _some(rng, "name", "city")
    return json.dumps(record), "\n".join(f"{key}: {value}" for key, value in record.items())


@task("lines_to_json", "formats", """
    Turn the text into a JSON object.
    name: Anna, age: 5 becomes {"name": "Anna", "age": 5}.
    to json pls
    Convert the key: value pairs to JSON.
    Please write these fields as a JSON object.
    I need this record in JSON, numbers without quotes.
    Format the pairs as JSON.
    What is that as a JSON object?
    Make JSON out of the fields.
    Encode the record as JSON.
    """)  # fmt: skip
def _(rng: Random):
    record = _some(rng, "name", "age")
    separator = rng.choice((", ", "\n", "; "))
    return separator.join(f"{key}: {value}" for key, value in record.items()), json.dumps(record)


@task("sentence_to_json", "formats", """
    Extract name and city as JSON.
    Make {"name": ..., "city": ...} out of the sentence.
    json with name and city pls
    Read the sentence and fill in a JSON object with the keys name and city.
    Please return the person's name and city as a JSON object.
    Structured data, please: name and city in JSON.
    Who lives where? Answer as {"name": "...", "city": "..."}.
    Turn the text into a JSON record with name and city.
    Give the facts as JSON, first name, then city.
    Fill the fields name and city.
    """)  # fmt: skip
def _(rng: Random):
    name, city = rng.choice(FIRST_NAMES), rng.choice(LISTS["city"])
    text = rng.choice(
        (
            f"{name} lives in {city}.",
            f"My friend {name} moved to {city} last year.",
            f"In {city} you will find {name} and a dog.",
            f"{city} is where {name} was born.",
        )
    )
    return text, json.dumps({"name": name, "city": city})


@task("json_to_sentence", "formats", """
    Write the record as a sentence: NAME is AGE years old and lives in CITY.
    Turn the JSON into an English sentence about the person.
    sentence pls
    Say in plain words what the JSON holds, as in "Anna is 5 years old and lives in Rome."
    Please describe the person of this JSON in one sentence.
    {"name": "Ben", "age": 9, "city": "Oslo"} reads Ben is 9 years old and lives in Oslo. Do the same.
    Make a sentence with name, age and city.
    Who is it, how old, and where from? One sentence.
    Express the data as text.
    Read the record out as a sentence.
    """)  # fmt: skip
def _(rng: Random):
    record = _record(rng)
    shown = {key: record[key] for key in rng.sample(("name", "age", "city"), 3)}
    return json.dumps(shown), f"{record['name']} is {record['age']} years old and lives in {record['city']}."


_COLUMNS = ("name", "city", "job", "age")


def _csv(rng: Random, count: int) -> tuple[list[str], list[dict[str, str]]]:
    columns = ["name", *rng.sample(_COLUMNS[1:], 2)]
    names = rng.sample(FIRST_NAMES, count)
    records = [{**{k: str(v) for k, v in _record(rng).items()}, "name": name} for name in names]
    return columns, [{column: record[column] for column in columns} for record in records]


def _as_csv(columns: list[str], records: list[dict[str, str]]) -> str:
    return "\n".join([",".join(columns), *(",".join(record.values()) for record in records)])


@task("csv_columns", "formats", """
    List the column names of the CSV.
    What are the columns?
    header only
    Return the first line's names, separated by comma and space.
    Please name the columns of this table.
    Which fields does the CSV have?
    Read the header and list its columns.
    column names pls
    Give the headings of the table.
    What is in the header row?
    """)  # fmt: skip
def _(rng: Random):
    columns, records = _csv(rng, rng.randint(1, 3))
    return _as_csv(columns, records), ", ".join(columns)


@task("csv_count_rows", "formats", """
    How many people are in the table? Do not count the header.
    Number of data rows.
    rows?
    Count the lines below the header.
    Please tell me how many records the CSV has.
    How many entries does the table contain?
    Size of the table in rows, header not included.
    Count the records.
    nr of rows pls
    How many lines of data follow the column names?
    """)  # fmt: skip
def _(rng: Random):
    columns, records = _csv(rng, rng.randint(1, 5))
    return _as_csv(columns, records), str(len(records))


@task("csv_first_name", "formats", """
    Who stands in the first data row? Give the name.
    Name in the first row after the header.
    first person?
    Read the CSV and return the first record's name.
    Please look at the first line below the header and give the name.
    Which person comes first in the table?
    The name at the top of the data.
    Give the first entry of the column name.
    top name pls
    Return the name of record number one.
    """)  # fmt: skip
def _(rng: Random):
    columns, records = _csv(rng, rng.randint(2, 3))
    return _as_csv(columns, records), records[0]["name"]


@task("table_lookup", "formats", """
    Answer the question about the table.
    Look it up in the table.
    lookup
    Read the table and answer the question below it.
    Please find the asked value in the table.
    What does the table say? Answer the question.
    The question is about one cell. Give its content.
    Use the table to answer.
    find the cell pls
    Check the CSV and reply to the question.
    """)  # fmt: skip
def _(rng: Random):
    columns, records = _csv(rng, rng.randint(2, 3))
    record, column = rng.choice(records), rng.choice(columns[1:])
    question = {"city": "Where does {n} live?", "job": "What is the job of {n}?", "age": "How old is {n}?"}[column]
    return f"{_as_csv(columns, records)}\n{question.format(n=record['name'])}", record[column]


@task("table_reverse_lookup", "formats", """
    Who is it? Find the person in the table that fits the question.
    Give the name that the question asks for.
    who?
    Read the table and answer with a name.
    Please find out which person has the named value.
    The question describes one row. Whose row is it?
    Search the table and return the name.
    Which person matches?
    name of the match pls
    Use the table to tell who is meant.
    """, "exam")  # fmt: skip
def _(rng: Random):
    columns, records = _csv(rng, 3)
    column = rng.choice(columns[1:])
    while len({record[column] for record in records}) < 3:
        columns, records = _csv(rng, 3)
        column = rng.choice(columns[1:])
    record = rng.choice(records)
    question = {"city": "Who lives in {v}?", "job": "Who works as {v}?", "age": "Who is {v} years old?"}[column]
    return f"{_as_csv(columns, records)}\n{question.format(v=record[column])}", record["name"]


@task("csv_to_markdown", "formats", """
    Write the CSV line as a markdown table row.
    a,b,c becomes | a | b | c |.
    md row pls
    Turn commas into bars: a row for a markdown table.
    Please format the record as a table row with |.
    Put bars around and between the fields, with spaces.
    As a row of a markdown table, how does it look?
    Convert comma separated values to a markdown row.
    I paste this into a markdown table. Make the row.
    Fields between vertical bars.
    """)  # fmt: skip
def _(rng: Random):
    record = list(map(str, _some(rng, "name", "city").values()))
    return ",".join(record), f"| {' | '.join(record)} |"


@task("markdown_to_csv", "formats", """
    Write the markdown table row as CSV.
    | a | b | becomes a,b.
    csv pls
    Turn the bars into commas, no spaces.
    Please convert the table row to comma separated values.
    Remove the bars and separate the cells by commas.
    From a markdown row make a CSV line.
    Cells of the row, joined by commas only.
    I need this row in CSV.
    How does the row look as CSV?
    """, "exam")  # fmt: skip
def _(rng: Random):
    record = list(map(str, _some(rng, "name", "city").values()))
    return f"| {' | '.join(record)} |", ",".join(record)


@task("tabs_swap_columns", "formats", """
    Swap the two columns in every line.
    Second column first, in all lines.
    a, b becomes b, a on each line.
    Please exchange left and right in every row.
    Switch the columns.
    swap cols pls
    Put the right-hand value in front, line by line.
    Each line has two values. Change their order.
    The columns are in the wrong order; turn them around.
    Mirror the two-column list.
    """)  # fmt: skip
def _(rng: Random):
    pairs = [(rng.choice(FIRST_NAMES), rng.choice(SURNAMES)) for _ in range(rng.randint(1, 3))]
    return "\n".join(f"{a}, {b}" for a, b in pairs), "\n".join(f"{b}, {a}" for a, b in pairs)


@task("xml_value", "formats", """
    Which text stands between the tags?
    Content of the XML element.
    inner text
    Remove the tags and return the text.
    Please extract the content from the XML.
    Take away everything in angle brackets.
    What does the element contain?
    Give the text without its tags.
    strip the tags pls
    Text only, no markup.
    """)  # fmt: skip
def _(rng: Random):
    record = _record(rng)
    key = rng.choice(tuple(record))
    tag = rng.choice((key, key, "b", "p", "h1", "li", "td"))
    return f"<{tag}>{record[key]}</{tag}>", str(record[key])


@task("url_parameter", "formats", """
    List the names of the parameters in the URL.
    Which parameters does the address have?
    params?
    After the question mark stand pairs; give the names before the equals signs.
    Please return the query parameter names, separated by commas.
    Names of the query parameters.
    What is passed in this link? Names only.
    From ?a=1&b=2 I want a, b. Do so here.
    param names pls
    Read the query string and list its keys.
    """)  # fmt: skip
def _(rng: Random):
    keys = rng.sample(
        ("q", "page", "lang", "id", "sort", "size", "color", "city", "year", "user", "limit"), rng.randint(1, 3)
    )
    query = "&".join(f"{key}={rng.choice((rng.randint(1, 99), 'en', 'red', 'big', 'new'))}" for key in keys)
    return (
        f"https://www.{rng.choice(('shop', 'news', 'maps', 'books'))}.com/{rng.choice(('search', 'list', 'view'))}?{query}",
        ", ".join(keys),
    )


@task("shopping_amount", "lists", """
    How much of the asked item is on the shopping list?
    Find the amount of the item after the bar.
    amount?
    The list has amounts; give the one for the item named at the end.
    Please tell me how much I need of it.
    Look for the item and return its quantity.
    Quantity of the last-named thing, as written in the list.
    how much pls
    What amount does the list give for this item?
    Copy the quantity that belongs to the item.
    """)  # fmt: skip
def _(rng: Random):
    things = rng.sample(LISTS["grocery"], 3)
    amounts = [
        rng.choice(
            (
                f"{rng.randint(2, 9)} kg",
                f"{rng.randint(2, 9)} bags",
                f"{rng.randint(1, 9)}00 g",
                f"{rng.randint(2, 5)} packs",
            )
        )
        for _ in things
    ]
    place = rng.randrange(3)
    return f"{', '.join(f'{a} {t}' for a, t in zip(amounts, things, strict=True))} | {things[place]}", amounts[place]


@task("replace_item", "lists", """
    In the list, replace the first item by "none".
    Put none in place of the first entry.
    The first item becomes none.
    Please overwrite the first thing of the list with the word none.
    none instead of item one pls
    Change only the first entry: it is now none.
    Cross out the first item and write none there.
    What is the list once its first item is none?
    Let the list start with none, the first item is gone.
    Substitute none for the leading item.
    """)  # fmt: skip
def _(rng: Random):
    things = items(rng, 2, 5)
    return ", ".join(things), ", ".join(["none", *things[1:]])


@task("add_item_end", "lists", """
    Add "cake" to the end of the list.
    Append cake.
    + cake
    Please put cake on the list, last.
    We also need cake: write the whole list.
    Return the list with cake as its last item.
    The list grows by one: cake.
    Write the list again and finish with cake.
    add cake at the end pls
    What is the list once cake has been added?
    """)  # fmt: skip
def _(rng: Random):
    things = items(rng, 2, 5)
    return ", ".join(things), ", ".join([*things, "cake"])


@task("contains_item", "lists", """
    Is the thing after the bar in the list? Answer yes or no.
    On the list, yes or no?
    Check whether the list holds the last-named thing.
    yes if it is in the list, no if not
    Please look for the item and reply yes or no.
    Does the list contain it?
    Membership test: yes or no.
    Have we got it on the list? yes/no
    Say yes when the item occurs to the left of the bar, else no.
    Is it listed?
    """)  # fmt: skip
def _(rng: Random):
    things = items(rng, 4, 6)
    asked, shown = things[0], things[1:]
    yes = rng.random() < 0.5
    if yes:
        shown = rng.sample(things, len(things) - 1)
        asked = rng.choice(shown)
    return f"{', '.join(shown)} | {asked}", "yes" if yes else "no"
