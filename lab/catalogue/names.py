"""Names of people and things, formats of codes and files, and copying with a small change."""

from __future__ import annotations

from random import Random

from lab.content import COMPANIES, FEMALE, FIRST_NAMES, LISTS, MALE, NOUNS, SURNAMES, date, full_name, sentence
from lab.tasks import Catalogue

CATALOGUE = Catalogue()
task, table = CATALOGUE.task, CATALOGUE.table


@task("name_initials", "names", """
    Write the initials of the person, like J.S.
    John Smith becomes J.S.
    initials with dots pls
    Give the first letters of first name and surname, each with a dot.
    Please abbreviate the name to its initials.
    How would one sign briefly? Initials with periods.
    Shorten the name to letters with dots.
    Initials?
    Turn the full name into initials.
    What are the person's initials?
    """)  # fmt: skip
def _(rng: Random):
    first, last = full_name(rng)
    return f"{first} {last}", f"{first[0]}.{last[0]}."


@task("user_name", "names", """
    Make a user name: first letter of the first name and the surname, all lower case.
    John Smith becomes jsmith.
    username pls
    Create the login name (initial plus surname, small letters).
    Please form the account name from the full name.
    What is the login of this person, if John Smith is jsmith?
    First initial and last name, written together in lower case.
    Our user names look like jsmith. Make one.
    Turn the name into a user name.
    New employee: which login do they get, in the style jsmith?
    """)  # fmt: skip
def _(rng: Random):
    first, last = full_name(rng)
    return f"{first} {last}", f"{first[0]}{last}".lower()


@task("email_from_name", "names", """
    Make the email address at acme.com: first name, dot, surname, all lower case.
    John Smith becomes john.smith@acme.com.
    acme mail address pls
    Create the person's address in the form first.last@acme.com.
    Please form the company email (acme.com) from the name.
    What is the address at acme.com?
    The company's addresses look like john.smith@acme.com. Make one for this person.
    Build first.last@acme.com out of the name.
    Everyone at acme.com has first.last as address. Write it.
    New colleague: give the email at acme.com.
    """, "validation")  # fmt: skip
def _(rng: Random):
    first, last = full_name(rng)
    return f"{first} {last}", f"{first}.{last}@acme.com".lower()


@task("surname_only", "names", """
    Give only the surname.
    Last name?
    John Smith becomes Smith.
    Drop the first name.
    Please write the family name alone.
    What is the person's last name?
    surname pls
    Return the name that is shared by the family.
    For the door sign, just the family name.
    Leave out the given name.
    """)  # fmt: skip
def _(rng: Random):
    first, last = full_name(rng)
    return f"{first} {last}", last


@task("first_name_only", "names", """
    Give only the first name.
    First name?
    John Smith becomes John.
    Drop the surname.
    Please write the given name alone.
    What do friends call this person?
    first name pls
    Return the name that stands first.
    For the name tag, just the given name.
    Leave out the family name.
    """)  # fmt: skip
def _(rng: Random):
    first, last = full_name(rng)
    return f"{first} {last}", first


@task("without_title", "names", """
    Leave out the title of the person.
    Dr. John Smith becomes John Smith.
    name without title pls
    Remove Mr., Mrs., Dr. or Prof. from the name.
    Please write the name without its title.
    No titles: just first name and surname.
    Strip the honorific.
    What is the person's name without the title?
    Delete the form of address in front of the name.
    Keep the name only, not the academic title.
    """)  # fmt: skip
def _(rng: Random):
    first, last = full_name(rng)
    return (
        f"{rng.choice(('Dr.', 'Prof.', 'Mr.', 'Mrs.', 'Ms.', 'Sir', 'Prof. Dr.', 'Captain', 'Judge'))} {first} {last}",
        f"{first} {last}",
    )


@task("mr_or_ms", "names", """
    Write Mr. or Ms. and the surname.
    John Smith becomes Mr. Smith, Anna Smith becomes Ms. Smith.
    formal address pls (Mr./Ms. + surname)
    How would you address the person formally?
    Please use Mr. for men and Ms. for women, with the last name.
    Drop the first name and put Mr. or Ms. in front.
    For the letter: Mr. or Ms. and family name.
    Make it formal with Mr. or Ms.
    What do you call this person in an office?
    Address the person by title and surname.
    """, "exam")  # fmt: skip
def _(rng: Random):
    male, last = rng.random() < 0.5, rng.choice(SURNAMES)
    return f"{rng.choice(MALE if male else FEMALE)} {last}", f"{'Mr.' if male else 'Ms.'} {last}"


@task("fix_name_case", "names", """
    Write the name with capitals.
    john smith becomes John Smith.
    proper capitals pls
    Capitalize first name and surname.
    Please correct the capital letters of the name.
    The form was filled in sloppily; fix the name's capital letters.
    Names start with capitals. Write it right.
    How is this name written properly?
    Repair the case of the name.
    Make the initials big and the rest small.
    """)  # fmt: skip
def _(rng: Random):
    name = " ".join(full_name(rng))
    return rng.choice((name.lower(), name.upper(), name.swapcase())), name


@task("greeting_for_name", "names", """
    Write a greeting for the person: Dear NAME,
    Anna becomes Dear Anna,
    salutation pls (Dear ...,)
    Begin a letter to this person.
    Please write the first line of a letter, with Dear and a comma.
    How does the letter to this person start?
    Greet the person in a letter.
    Dear, then the name, then a comma.
    Opening of the mail?
    Write "Dear", the name and a comma.
    """)  # fmt: skip
def _(rng: Random):
    first, last = full_name(rng)
    name = rng.choice((first, f"{first} {last}", f"Mr. {last}", f"Ms. {last}", f"Dr. {last}"))
    return name, f"Dear {name},"


@task("possessive", "names", """
    Whose is it? Say it with 's.
    the car of Anna becomes Anna's car.
    's form pls
    Rewrite "the X of Y" as "Y's X".
    Please use the possessive.
    Say it shorter with an apostrophe and s.
    Put the owner first, with 's.
    Change the of-phrase into the genitive.
    How do you say that with 's?
    Possessive form, please.
    """)  # fmt: skip
def _(rng: Random):
    owner = rng.choice(
        (
            *[name for name in FIRST_NAMES if name[-1] != "s"],
            "my brother",
            "the teacher",
            "our neighbor",
            "the doctor",
            "my friend",
        )
    )
    thing = rng.choice(NOUNS)
    return f"the {thing} of {owner}", f"{owner}'s {thing}"


@task("file_type", "codes", """
    What kind of file is it: image, document, audio or video?
    image, document, audio or video?
    Tell the file type from the name: image, document, audio, video.
    Please sort the file into image, document, audio or video.
    Would you look at it (image), read it (document), listen to it (audio) or watch it (video)? Use the word in parentheses.
    One word for the file: video, audio, image or document.
    Which folder does the file go in, audio, document, image or video?
    By its ending, is the file a document, an image, a video or audio?
    type pls (image/document/audio/video)
    Classify the file name under video, document, audio or image.
    """)  # fmt: skip
def _(rng: Random):
    label, ends = rng.choice(
        (
            ("image", ("jpg", "png", "gif", "jpeg", "bmp")),
            ("document", ("pdf", "docx", "txt", "doc", "odt")),
            ("audio", ("mp3", "wav", "flac", "ogg")),
            ("video", ("mp4", "avi", "mov", "mkv")),
        )
    )
    return (
        f"{rng.choice(NOUNS)}{rng.choice(('', '_', '-'))}{rng.choice(('', '2', '2023', 'final', 'old'))}.{rng.choice(ends)}",
        label,
    )


@task("change_extension_pdf", "codes", """
    Change the file name's ending to .pdf.
    report.doc becomes report.pdf.
    .pdf instead pls
    Replace the file extension by pdf.
    Please rename the file so that it ends in .pdf.
    I converted the file to PDF. What is it called now?
    Same name, new ending: pdf.
    Give the file the extension pdf.
    What is the name of the PDF version?
    Swap the extension for pdf.
    """)  # fmt: skip
def _(rng: Random):
    name = f"{rng.choice(NOUNS)}{rng.choice(('', '_1', '-final', '2024', '_old'))}"
    return f"{name}.{rng.choice(('doc', 'docx', 'txt', 'odt', 'rtf', 'html', 'jpg'))}", f"{name}.pdf"


@task("title_to_file_name", "codes", """
    Make a file name: lower case, underscores, .txt at the end.
    My Big House becomes my_big_house.txt.
    filename pls
    Turn the title into a name for a text file.
    Please form the file name in the style my_big_house.txt.
    Spaces become underscores, capitals become small, then .txt.
    Under which name do I save it (small letters, _ for space, txt)?
    Create a txt file name from the title.
    Title to file name.
    Convert it to snake case and add .txt.
    """)  # fmt: skip
def _(rng: Random):
    parts = rng.sample(NOUNS, rng.randint(2, 3))
    return " ".join(parts).title(), f"{'_'.join(parts)}.txt"


@task("title_to_slug", "codes", """
    Make a web address part out of the title: lower case with hyphens.
    My Big House! becomes my-big-house.
    slug pls
    Turn the headline into a URL slug.
    Please write the title in small letters with hyphens, without punctuation.
    What is the slug of the article?
    Hyphenate the title for the link.
    Title to slug.
    For the address bar: no capitals, no marks, hyphens for spaces.
    Convert the title to a slug.
    """, "exam")  # fmt: skip
def _(rng: Random):
    text = sentence(rng, most=7)
    return text.title() + rng.choice(("", "!", "?", ".")), text.replace(" ", "-").lower()


@task("next_version", "codes", """
    Raise the last number of the version by one.
    1.2.3 becomes 1.2.4.
    bump the patch version pls
    What is the next small version?
    Please increase the version's last part by 1.
    A bug was fixed: give the new version number, last part plus one.
    Next patch release?
    Add one to the number after the last dot.
    Count the version up at the end.
    New version, only the last digit group changes.
    """)  # fmt: skip
def _(rng: Random):
    a, b, c = rng.randint(0, 9), rng.randint(0, 20), rng.randint(0, 30)
    prefix = rng.choice(("", "v"))
    return f"{prefix}{a}.{b}.{c}", f"{prefix}{a}.{b}.{c + 1}"


@task("major_version", "codes", """
    What is the major version, the number before the first dot?
    Major version only.
    v3.2.1 becomes 3.
    major pls
    Please give the first number of the version.
    Which main version is it?
    Cut the version after the first number and drop the v.
    Number before the first dot?
    Main release number.
    Return the leading number of the version.
    """, "exam")  # fmt: skip
def _(rng: Random):
    a, b, c = rng.randint(0, 40), rng.randint(0, 20), rng.randint(0, 30)
    return f"{rng.choice(('', 'v', 'version '))}{a}.{b}.{c}", str(a)


@task("hide_card_number", "codes", """
    Show only the last four digits of the card, the others as *.
    Mask the card number except the last 4 digits.
    **** **** **** 1234 style pls
    Please hide the card number, keep the last four digits.
    Replace all digits but the last four by stars.
    For the receipt: star out the first twelve digits.
    Protect the card number; the final group stays.
    Blank the first three groups with *.
    Cover the number with asterisks up to the last group.
    Make the card number safe to print.
    """)  # fmt: skip
def _(rng: Random):
    groups = [f"{rng.randint(0, 9999):04d}" for _ in range(4)]
    return " ".join(groups), f"**** **** **** {groups[3]}"


@task("last_four_digits", "codes", """
    What are the last four digits?
    Last 4 digits of the number.
    ...1234?
    Give the final four digits only.
    Please tell me the last four digits of this number.
    The bank asks for the last four digits. Write them.
    Final group of four?
    Cut off all but the last four digits.
    last four pls
    Return the ending of the number, four digits long.
    """)  # fmt: skip
def _(rng: Random):
    digits = "".join(str(rng.randint(0, 9)) for _ in range(rng.randint(8, 16)))
    return rng.choice(
        (digits, " ".join(digits[i : i + 4] for i in range(0, len(digits), 4)) if len(digits) % 4 == 0 else digits)
    ), digits[-4:]


@task("format_phone", "codes", """
    Write the phone number as 555-123-4567.
    Put hyphens into the phone number.
    5551234567 becomes 555-123-4567.
    hyphens pls (3-3-4)
    Please format the ten digits as a US phone number with hyphens.
    Group the digits 3, 3, 4 with - between.
    The number is hard to read; add the hyphens.
    Format the telephone number.
    Three digits, hyphen, three digits, hyphen, four digits.
    How is this number usually written?
    """)  # fmt: skip
def _(rng: Random):
    parts = f"{rng.randint(200, 999)}", f"{rng.randint(200, 999)}", f"{rng.randint(0, 9999):04d}"
    return rng.choice(("", " ", ".")).join(parts), "-".join(parts)


@task("zip_code", "codes", """
    Find the zip code in the address.
    zip only
    What is the postal code?
    Please copy the five-digit code from the address.
    Return the postcode.
    Which zip code does the address have?
    Extract the postal code.
    The five digits of the address, please.
    pull out the zip
    Give just the zip code.
    """)  # fmt: skip
def _(rng: Random):
    code = f"{rng.randint(10000, 99999)}"
    street = (
        f"{rng.randint(1, 400)} {rng.choice(('Main St', 'Oak Ave', 'Hill Rd', 'Lake Dr', 'Park Lane', 'Church St'))}"
    )
    return (
        f"{rng.choice((' '.join(full_name(rng)), rng.choice(COMPANIES)))}, {street}, {rng.choice(LISTS['city'])} {code}",
        code,
    )


@task("street_of_address", "codes", """
    Give the street with the number.
    street?
    Copy street and house number from the address.
    What street is it, with number?
    Please extract the street line.
    Where exactly does the person live? House number and street.
    Return the part with the house number and the street name.
    street + nr pls
    The second part of the address, please: number and street.
    Which street and number?
    """, "validation")  # fmt: skip
def _(rng: Random):
    street = f"{rng.randint(1, 400)} {rng.choice(('Main St', 'Oak Ave', 'Hill Rd', 'Lake Dr', 'Park Lane', 'Church St', 'Mill Way', 'King St'))}"
    return f"{' '.join(full_name(rng))}, {street}, {rng.choice(LISTS['city'])} {rng.randint(10000, 99999)}", street


@task("address_lines", "codes", """
    Write the address on three lines.
    Break the address at the commas.
    address as lines pls
    One part per line: name, street, city.
    Please format the address for an envelope.
    Each part of the address goes on a new line.
    Put line breaks where the commas are.
    How does it look on an envelope?
    Split the address into lines.
    Address, line by line.
    """, "exam")  # fmt: skip
def _(rng: Random):
    parts = (
        " ".join(full_name(rng)),
        f"{rng.randint(1, 400)} {rng.choice(('Main St', 'Oak Ave', 'Hill Rd', 'Lake Dr', 'Park Lane', 'Church St'))}",
        f"{rng.choice(LISTS['city'])} {rng.randint(10000, 99999)}",
    )
    return ", ".join(parts), "\n".join(parts)


@task("bool_flip", "codes", """
    Flip true and false.
    true becomes false, false becomes true.
    not(x)
    Give the opposite truth value, keeping the name.
    Please toggle the setting.
    Switch the flag to the other value.
    Negate the boolean.
    toggle pls
    Turn the option on if it is off and off if it is on (true/false).
    Change the value of the flag.
    """)  # fmt: skip
def _(rng: Random):
    key = rng.choice(
        (
            "visible",
            "enabled",
            "dark_mode",
            "sound",
            "debug",
            "autosave",
            "wifi",
            "public",
            "alarm",
            "cache",
            "sync",
            "ads",
        )
    )
    name = f"{rng.choice(('', 'user.', 'app.', 'page.', 'home.'))}{key}"
    value = rng.random() < 0.5
    form = rng.choice(("{k}={v}", "{k}: {v}", "{k} = {v}"))
    return form.format(k=name, v=str(value).lower()), form.format(k=name, v=str(not value).lower())


@task("comment_out", "codes", """
    Comment the line out with #.
    Put "# " before the line.
    x = 1 becomes # x = 1.
    comment it pls
    Please turn this line of Python into a comment.
    Disable the line with a hash and a space.
    The line should not run any more. Comment it out.
    Make it a comment.
    Add the comment sign in front.
    How does the line look as a Python comment?
    """, "exam")  # fmt: skip
def _(rng: Random):
    name, value = rng.choice(("x", "count", "total", "name", "size", "price", "i", "city")), rng.randint(0, 99)
    line = rng.choice(
        (
            f"{name} = {value}",
            f"print({name})",
            f"{name} += {value}",
            f"import {rng.choice(('os', 'json', 'math', 're', 'csv'))}",
            f"return {name}",
            f"{name} = input()",
            f"if {name} > {value}:",
        )
    )
    return line, f"# {line}"


@task("print_statement", "codes", """
    Write a Python print statement for the text.
    hello becomes print("hello").
    print it pls (python)
    Make Python code that prints this.
    Please put the text into print("...").
    Which Python line shows this text?
    Wrap the text in print and double quotes.
    Code: print the text.
    How do I print this in Python?
    Turn the words into a print call.
    """)  # fmt: skip
def _(rng: Random):
    text = rng.choice((rng.choice(NOUNS), " ".join(rng.sample(NOUNS, 2)), sentence(rng), rng.choice(FIRST_NAMES)))
    return text, f'print("{text}")'


@task("constant_name", "codes", """
    Write the words as a constant: capitals with underscores.
    max size becomes MAX_SIZE.
    CONSTANT_CASE pls
    Turn the words into a name for a constant.
    Please join the words with _ in capital letters.
    What is the constant called?
    Upper case, underscores for spaces.
    Convert the phrase to screaming snake case.
    As a constant in code, how is it written?
    Name the constant.
    """)  # fmt: skip
def _(rng: Random):
    parts = rng.sample(NOUNS, rng.randint(2, 3))
    return " ".join(parts), "_".join(parts).upper()


@task("quote_words", "codes", """
    Put every word in double quotes, separated by commas.
    red car becomes "red", "car".
    quote each word pls
    Turn the words into quoted strings with commas.
    Please quote each word and add commas.
    For code I need the words as strings.
    Each word between double quotes, a comma after it.
    Make a row of strings out of the phrase.
    How do the words look as string literals?
    Words to strings.
    """, "validation")  # fmt: skip
def _(rng: Random):
    parts = sentence(rng).split()[: rng.randint(2, 5)]
    return " ".join(parts), ", ".join(f'"{part}"' for part in parts)


@task("invoice_number", "codes", """
    Make an invoice number: INV-, the year, -, and the number with three digits.
    2023, 7 becomes INV-2023-007.
    invoice nr pls
    Build the invoice code from year and number.
    Please form the number in the style INV-2023-007.
    Year and number are given. Write the invoice id.
    Fill with zeros to three digits and put INV and the year in front.
    What is the invoice called?
    Our invoices are named INV-YEAR-NNN. Name this one.
    Compose the invoice number.
    """)  # fmt: skip
def _(rng: Random):
    year, number = date(rng)[0], rng.randint(1, 300)
    return f"{year}, {number}", f"INV-{year}-{number:03d}"


@task("pad_number", "codes", """
    Fill the number with zeros to four digits.
    7 becomes 0007.
    4 digits pls
    Write the number with leading zeros, four places.
    Please pad it with zeros on the left, length four.
    Zero-fill to a width of 4.
    The form has four boxes; fill the empty ones in front with 0.
    As a four-digit code, how is the number written?
    Put zeros in front until there are four digits.
    Pad to 4.
    """, "exam")  # fmt: skip
def _(rng: Random):
    number = rng.randint(0, 9999 if rng.random() < 0.2 else 999)
    return str(number), f"{number:04d}"
