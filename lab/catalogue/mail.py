"""Emails, messages and tickets: who, when, what for, how urgent, and the pieces one copies out of them."""

from __future__ import annotations

from random import Random

from lab.content import COMPANIES, DAYS, FIRST_NAMES, MONTHS, PLACES, PRODUCTS, email_address, full_name, money
from lab.tasks import Catalogue

CATALOGUE = Catalogue()
task, labels = CATALOGUE.task, CATALOGUE.labels

_GREETINGS = ("Hi", "Hello", "Dear", "Hey", "Good morning")
_CLOSINGS = ("Best", "Thanks", "Kind regards", "Cheers", "Best wishes", "Yours", "Many thanks")
_TOPICS = {
    "Meeting moved to {day}": "we have to move our meeting to {day}",
    "Invoice for {product}": "attached is the invoice for the {product} you ordered",
    "Broken {product}": "the {product} I bought from you is broken",
    "Lunch on {day}": "would you like to have lunch on {day}",
    "Holiday request for {month}": "I would like to take my holiday in {month}",
    "Missing delivery of {product}": "my {product} was never delivered",
    "Job application": "I am applying for the job you advertised",
    "Password reset": "I cannot log in and need a new password",
    "Birthday party on {day}": "I am celebrating my birthday on {day} and want you to come",
    "Question about {product}": "I have a question about the {product} on your website",
    "Report due on {day}": "please remember that the report is due on {day}",
    "Thank you for the {product}": "thank you so much for the {product}",
    "New office in {month}": "we are moving to our new office in {month}",
    "Cancel my order of {product}": "please cancel my order of the {product}",
    "Team dinner on {day}": "the whole team will have dinner together on {day}",
    "Training in {month}": "there will be a training for all staff in {month}",
}


def _slots(rng: Random) -> dict[str, str]:
    return {"day": rng.choice(DAYS), "month": rng.choice(MONTHS), "product": rng.choice(PRODUCTS)}


def mail(rng: Random, body: str, to: str | None = None, sender: str | None = None) -> str:
    """A short mail around a body."""
    to, sender = to or rng.choice(FIRST_NAMES), sender or rng.choice(FIRST_NAMES)
    body = body[:1].upper() + body[1:]
    body += "" if body[-1] in ".?!" else "."
    gap = "\n" if rng.random() < 0.5 else " "
    return f"{rng.choice(_GREETINGS)} {to},{gap}{body}{gap}{rng.choice(_CLOSINGS)}, {sender}"


def _topic(rng: Random) -> tuple[str, str]:
    title, body = rng.choice(tuple(_TOPICS.items()))
    slots = _slots(rng)
    return title.format(**slots), body.format(**slots)


@task("email_subject", "email", """
    Write a short subject line for the email.
    Give the email a subject.
    subject line pls
    What would be a good subject for this mail?
    Could you suggest a subject line for this message?
    Here is an email without a subject. Write one that tells at a glance what it is about.
    Sum up the mail as a subject line.
    I get an email body; I need its subject, a few words only.
    Propose a heading for this e-mail.
    Subject for the mail below?
    """)  # fmt: skip
def _(rng: Random):
    subject, body = _topic(rng)
    return mail(rng, body), subject


@task("email_address", "email", """
    Find the email address in the text.
    Copy out the e-mail address.
    What is the email address in here?
    email only
    Please extract the email address from this message.
    Somewhere in the text is an address with an @. Return exactly that.
    Give me just the mail address mentioned.
    I need the contact email out of this text.
    Pull the e-mail adress from the sentence.
    Which email should one write to according to the text?
    """)  # fmt: skip
def _(rng: Random):
    address = email_address(rng)
    return rng.choice((
        f"You can reach {rng.choice(FIRST_NAMES)} at {address} on weekdays.",
        f"Please send the form to {address} before {rng.choice(DAYS)}.",
        f"My new address is {address}, the old one no longer works.",
        f"{rng.choice(COMPANIES)}, open 9 to 5, {address}, tel. {rng.randint(100, 999)}-{rng.randint(1000, 9999)}",
        f"For questions about your {rng.choice(PRODUCTS)} write to {address}.",
        f"cc {address} when you answer, thanks",
    )), address  # fmt: skip


@task("email_sender", "email", """
    Who wrote this email? Give the name at the end.
    Name of the sender.
    Which person signed the mail?
    Return the name in the signature.
    Please tell me who sent this message.
    Read the email and answer with the first name of the person who wrote it.
    sender?
    Find out from whom the mail is and write the name, nothing else.
    The mail is signed by someone. Who?
    Extract the writer's name.
    """)  # fmt: skip
def _(rng: Random):
    to, sender = rng.sample(FIRST_NAMES, 2)
    return mail(rng, _topic(rng)[1], to, sender), sender


@task("email_addressee", "email", """
    To whom is this email addressed? Give the name.
    Name of the person the mail greets.
    Who should read this message?
    Return the name after the greeting.
    addressee only pls
    Please say who this mail was written to.
    Read the greeting of the email and write down the name in it.
    The letter starts by greeting someone. Whom?
    Find the recipient's name in the mail.
    who gets this email
    """, "validation")  # fmt: skip
def _(rng: Random):
    to, sender = rng.sample(FIRST_NAMES, 2)
    return mail(rng, _topic(rng)[1], to, sender), to


@task("email_day", "email", """
    Which day of the week does the email mention?
    Find the weekday in the mail.
    What day is it about?
    day only
    Please pull out the day of the week named in this message.
    The message names a day such as Monday. Return that day.
    On which day does it happen? Answer with the weekday.
    I want the weekday from the mail and nothing more.
    Give the day that is mentioned.
    Copy the name of the day from the text.
    """)  # fmt: skip
def _(rng: Random):
    day = rng.choice(DAYS)
    body = rng.choice((
        "we have to move our meeting to {day}", "the plumber can only come on {day}", "can you call me back on {day}",
        "the parcel should arrive on {day}", "our shop is closed on {day}", "I will be out of the office on {day}",
        "please send me the numbers by {day}", "the concert is on {day} at eight", "{day} would suit me best",
        "are you free on {day} after work", "your appointment with the dentist is on {day}",
    ))  # fmt: skip
    return mail(rng, body.format(day=day)), day


@task("email_intent", "email", """
    What is the purpose of the email: complaint, request, thanks or invitation?
    Classify the mail as complaint, request, thanks or invitation.
    complaint / request / thanks / invitation?
    Label this message with one of: complaint, request, thanks, invitation.
    Please decide whether the writer complains, requests something, says thanks or invites, and answer complaint, request, thanks or invitation.
    Sort the incoming mail. The trays are called complaint, request, thanks and invitation.
    Is the writer complaining (complaint), asking for something (request), grateful (thanks) or inviting (invitation)?
    One word for what this email is: invitation, thanks, request or complaint.
    Pick the right tag for the mail from thanks, complaint, invitation, request.
    Which of the four fits the mail, request, complaint, invitation or thanks?
    """)  # fmt: skip
def _(rng: Random):
    slots = _slots(rng) | {"place": rng.choice(PLACES)}
    label, bodies = rng.choice(tuple({
        "complaint": ("the {product} stopped working after two days and I want my money back",
                      "I have been waiting for my {product} since {month} and nobody answers",
                      "your driver left the {product} in the rain, this is not acceptable",
                      "I am very unhappy with the {product}, it is scratched", "the staff was rude when I came on {day}"),
        "request": ("could you send me the manual of the {product}", "please change my delivery to {day}",
                    "can you tell me the price of the {product}", "I need a copy of the invoice for the {product}",
                    "would it be possible to pick up the {product} on {day}"),
        "thanks": ("thank you for the lovely {product}, it works very well", "thanks for your help on {day}",
                   "I am so grateful that you fixed my {product}", "many thanks for the wonderful evening in {month}",
                   "it was very kind of you to lend me the {product}"),
        "invitation": ("we are having a party at {place} on {day}, please come", "would you like to join us at {place} on {day}",
                       "you are invited to our summer dinner in {month}", "come and see our new {product} on {day}, there will be cake",
                       "please be our guest at {place} on {day}"),
    }.items()))  # fmt: skip
    return mail(rng, rng.choice(bodies).format(**slots)), label


@task("email_needs_reply", "email", """
    Does the email ask for a reply? Answer yes or no.
    Is an answer expected to this mail, yes or no?
    reply needed? yes/no
    Say yes if the writer wants to hear back, otherwise no.
    Please tell me whether I have to answer this message. Yes or no.
    Look at the mail and decide if it asks the reader something: yes or no.
    yes when the mail contains a question or asks for a response, no when it only informs
    Should I write back? yes or no
    Write yes for mails that want a response and no for mails that do not.
    Do they expect me to respond (yes/no)?
    """)  # fmt: skip
def _(rng: Random):
    slots = _slots(rng)
    label, bodies = rng.choice((
        ("yes", ("are you free on {day}?", "please let me know by {day} if you can come", "could you send me the {product} manual?",
                 "what does the {product} cost?", "please confirm that {day} is fine", "do you still have my {product}?")),
        ("no", ("your {product} was sent on {day}", "the office is closed on {day}, no answer is needed",
                "just to let you know that the {product} has arrived", "this is an automatic message about your {product}",
                "I got your {product}, all is well", "the price of the {product} went up in {month}, for your information")),
    ))  # fmt: skip
    return mail(rng, rng.choice(bodies).format(**slots)), label


@task("email_order_number", "email", """
    Find the order number in the message.
    Copy the order number.
    What is the number of the order?
    order no. only
    Please give me the order number mentioned in this mail.
    The customer names an order. Return its number exactly as written.
    Extract the order id from the text.
    I need the order number so that I can look it up.
    Which order is it about? Reply with the number.
    Pull out the order nr from the message
    """)  # fmt: skip
def _(rng: Random):
    number = rng.choice(
        (
            f"{rng.randint(10000, 999999)}",
            f"A-{rng.randint(1000, 9999)}",
            f"#{rng.randint(1000, 99999)}",
            f"{rng.randint(100, 999)}-{rng.randint(100, 999)}",
        )
    )
    slots = _slots(rng) | {"number": number, "price": money(rng), "age": str(rng.randint(2, 9))}
    body = rng.choice((
        "my order {number} has not arrived, I paid {price}", "I ordered a {product} on {day}, order number {number}",
        "please cancel order {number} from {month}", "where is my {product}? The order is {number}, {age} days late",
        "regarding order {number}: the {product} has the wrong color", "order no. {number} came with {age} parts missing",
    ))  # fmt: skip
    return mail(rng, body.format(**slots)), number


@task("phone_number", "email", """
    Find the phone number in the text.
    phone number only
    What number should one call?
    Please copy the telephone number out of this message.
    Extract the phone number exactly as it is written.
    There is a phone number in here. Return it.
    Give me just the number to call.
    Which telephone number is mentioned?
    I want to phone them, so pull out the number.
    tel number pls
    """)  # fmt: skip
def _(rng: Random):
    number = rng.choice((f"{rng.randint(200, 999)}-{rng.randint(1000, 9999)}", f"{rng.randint(200, 999)} {rng.randint(100, 999)} {rng.randint(1000, 9999)}",
                         f"({rng.randint(200, 999)}) {rng.randint(200, 999)}-{rng.randint(1000, 9999)}", f"+{rng.randint(1, 99)} {rng.randint(100, 999)} {rng.randint(10000, 99999)}"))  # fmt: skip
    name, place = rng.choice(FIRST_NAMES), rng.choice(COMPANIES)
    return rng.choice((
        f"Call {name} at {number} after {rng.randint(2, 9)} pm.", f"{place} can be reached under {number} from {rng.choice(DAYS)} on.",
        f"If the {rng.choice(PRODUCTS)} breaks, dial {number}.", f"My number is {number}, yours, {name}",
        f"Room {rng.randint(1, 40)}, tel. {number}, ask for {name}", f"We moved! New phone: {number}. Old office closed in {rng.choice(MONTHS)}.",
    )), number  # fmt: skip


@task("meeting_time", "email", """
    At what time is the meeting? Copy the time.
    Find the time in the message.
    time only
    When does it start? Give the time as written.
    Please extract the time of day from this text.
    The message names a time such as 3 pm or 14:30. Return that.
    What time should I be there?
    Give me the clock time mentioned, nothing else.
    I need the hour of the appointment.
    Pull the time out of the message
    """)  # fmt: skip
def _(rng: Random):
    hour = rng.choice(
        (
            f"{rng.randint(1, 12)} {rng.choice(('am', 'pm'))}",
            f"{rng.randint(7, 21)}:{rng.choice(('00', '15', '30', '45'))}",
            f"{rng.randint(1, 12)}:{rng.choice(('15', '30', '45'))} {rng.choice(('am', 'pm'))}",
        )
    )
    day, place, name = rng.choice(DAYS), rng.choice(PLACES), rng.choice(FIRST_NAMES)
    return rng.choice((
        f"Let's meet at {hour} on {day} in front of {place}.", f"The meeting with {name} starts at {hour}, room {rng.randint(1, 30)}.",
        f"{day}: {name} will pick you up at {hour}.", f"Your table for {rng.randint(2, 8)} is booked for {hour} on {day}.",
        f"Please be at {place} by {hour}.", f"The call on {day} was moved to {hour}, sorry.",
    )), hour  # fmt: skip


@task("meeting_place", "email", """
    Where do they meet? Copy the place from the message.
    Find the meeting place.
    place only
    Where should one go?
    Please extract the location of the meeting from this text.
    The message says where people get together. Return that place.
    Which place is named for the appointment?
    Give me only the venue.
    Where will it take place?
    pull out the location of the meetup
    """, "validation")  # fmt: skip
def _(rng: Random):
    place, day, name, hour = rng.choice(PLACES), rng.choice(DAYS), rng.choice(FIRST_NAMES), rng.randint(1, 11)
    return rng.choice((
        f"Let's meet at {place} on {day} at {hour}.", f"{name} is waiting for you at {place}.",
        f"The party on {day} is at {place}, bring some cake.", f"We will see each other at {place} around {hour}, says {name}.",
        f"Come to {place} at {hour} pm and ask for {name}.", f"{day} at {place}? I can be there by {hour}.",
    )), place  # fmt: skip


@task("email_has_attachment", "email", """
    Does the email say that a file is attached? Answer yes or no.
    Attachment mentioned, yes or no?
    yes if the mail comes with a file, otherwise no
    Please check whether the writer attached something. Reply yes or no.
    attached file? yes/no
    Say yes when the message speaks of an attachment and no when it does not.
    Is there supposed to be an attachment to this mail (yes or no)?
    Look for words about an enclosed file. If there are any, answer yes; if not, no.
    Should I look for an attached document? Yes or no.
    Decide if this mail carries an attachment: yes or no.
    """, "exam")  # fmt: skip
def _(rng: Random):
    slots = _slots(rng)
    label, bodies = rng.choice((
        ("yes", ("attached is the invoice for the {product}", "please find the photos of the {product} attached", "I have enclosed the list for {day} as a file",
                 "see the attached document about the {product}", "the signed contract is in the attachment", "I attach the plan for {month}")),
        ("no", ("the {product} will arrive on {day}", "can we talk about the {product} on {day}?", "thank you for the photos of the {product}",
                "I will bring the list on {day}", "the contract for {month} is not ready yet", "did you read the report about the {product}?")),
    ))  # fmt: skip
    return mail(rng, rng.choice(bodies).format(**slots)), label


@task("email_priority", "email", """
    How urgent is the message: high, normal or low?
    Give the priority of the mail: high, normal or low.
    priority? high / normal / low
    Label the message high if it cannot wait, low if there is no hurry at all, and normal otherwise.
    Please rate the urgency with one of the words high, normal, low.
    Triage my inbox: say high, normal or low.
    Is this mail of high, normal or low importance in time?
    high = right now, normal = this week, low = some day; which one is it?
    Tell me with high, normal or low how fast I have to act.
    Decide how pressing the mail is. Possible answers: low, normal, high.
    """)  # fmt: skip
def _(rng: Random):
    slots = _slots(rng)
    label, bodies = rng.choice((
        ("high", ("the server is down, please act immediately", "urgent: the {product} is on fire, call me right now", "we need your signature within the hour",
                  "emergency, the water is coming through the ceiling", "this cannot wait: the customer leaves in ten minutes")),
        ("normal", ("please send the {product} list by {day}", "could you look at the report this week", "the meeting about the {product} is on {day}",
                    "can you order a {product} by the end of the week", "please answer the customer by {day}")),
        ("low", ("no hurry at all, but some day we should replace the {product}", "whenever you have time, look at these photos", "just for fun, here is a picture of my {product}",
                 "there is no rush, any time this year is fine", "if you are bored one day, tidy the {product} shelf")),
    ))  # fmt: skip
    return mail(rng, rng.choice(bodies).format(**slots)), label


@task("spam_or_not", "email", """
    Is this message spam? Answer spam or not spam.
    Decide: spam or not spam.
    spam / not spam?
    Label the message "spam" if it is unwanted advertising or a trick, else "not spam".
    Would a mail filter call this spam or not spam?
    Please check this message and reply with spam or not spam.
    My inbox is full. For each message say spam or not spam.
    Junk mail gets "spam", real mail gets "not spam".
    Does it look like spam? Reply spam, or not spam if it is genuine.
    Tell real messages (not spam) from junk (spam).
    """)  # fmt: skip
def _(rng: Random):
    slots = _slots(rng) | {"name": rng.choice(FIRST_NAMES), "money": f"${rng.randint(2, 90) * 100}"}
    label, bodies = rng.choice((
        ("spam", ("Congratulations! You won {money}. Click here now to claim", "Cheap {product}s, 90% off, today only!!!", "Dear customer, your account is locked, send us your password",
                  "Make {money} a week from home, no work needed", "You have been chosen for a free {product}, reply with your card number", "Hot offer: lose weight in {month} without effort")),
        ("not spam", ("Hi {name}, are we still meeting on {day}?", "Your {product} is ready for pickup on {day}", "Mom, can you bring the {product} on {day}?",
                      "The report for {month} is finished, see you in the office", "{name} called and asks for the {product} back", "Dinner at eight on {day}? Love, {name}")),
    ))  # fmt: skip
    return rng.choice(bodies).format(**slots), label


_TICKETS = {
    "billing": ("I was charged twice for my {product}", "the invoice for {month} is wrong", "please refund the {money} I paid", "why did my bill go up to {money}?", "my card was charged {money} but I bought nothing"),
    "login": ("I forgot my password", "the app says my account is locked", "I cannot sign in since {day}", "the code for signing in never arrives", "my user name is not accepted any more"),
    "shipping": ("my {product} has not arrived", "the parcel went to the wrong address", "when will the {product} be delivered?", "the tracking page has not moved since {day}", "can you deliver the {product} on {day}?"),
    "bug": ("the app crashes when I open the {product} page", "the search button does nothing", "the page shows an error since {day}", "photos of my {product} do not load", "the screen freezes after the update in {month}"),
}  # fmt: skip


@task("ticket_category", "tickets", """
    Sort the support ticket: billing, login, shipping or bug.
    Which team gets this: billing, login, shipping or bug?
    billing / login / shipping / bug
    Classify the customer's problem as one of billing, login, shipping, bug.
    Please label the ticket with billing, login, shipping or bug.
    Is the trouble about money (billing), signing in (login), delivery (shipping) or broken software (bug)?
    One word for the problem, chosen from bug, shipping, login, billing.
    Route the message. The queues are billing, login, shipping and bug.
    Read what the customer writes and name the queue: shipping, billing, bug or login.
    What kind of ticket is it? Choose login, billing, bug or shipping.
    """)  # fmt: skip
def _(rng: Random):
    label = rng.choice(tuple(_TICKETS))
    text = rng.choice(_TICKETS[label]).format(**_slots(rng), money=money(rng))
    opening, ending = (
        rng.choice(("", "Hello, ", "Hi there, ", "Help! ")),
        rng.choice(("", ". Please help", ", what can I do", ". Thanks")),
    )
    text = f"{opening}{text if opening.endswith(', ') else text[:1].upper() + text[1:]}"
    return (text if text.endswith("?") else f"{text}{ending}."), label


@task("ticket_product", "tickets", """
    Which product is the ticket about?
    Name the product in the complaint.
    product?
    Find the item the customer is writing about and return its name.
    Please extract the product from this support message.
    What did the customer buy? Answer with the thing only.
    Give me the name of the article mentioned in the ticket.
    The customer has trouble with some article. Which one?
    Pull out the product name.
    what item is this about
    """)  # fmt: skip
def _(rng: Random):
    product = rng.choice(PRODUCTS)
    day, month = rng.choice(DAYS), rng.choice(MONTHS)
    return rng.choice((
        f"The {product} I bought on {day} does not work.", f"I want to return my {product} from {month}.", f"Is the {product} still in stock? I need it by {day}.",
        f"My new {product} came without a manual.", f"There is a scratch on the {product}, and the box was open.", f"Since {day} my {product} makes a strange noise.",
        f"How do I clean the {product}?", f"You sent me the wrong color of {product}.",
    )), product  # fmt: skip


@task("ticket_error_code", "tickets", """
    Find the error code in the report.
    error code only
    What code does the error have?
    Please copy the error code from this message.
    The user reports an error with a code. Return the code exactly.
    Which error code is shown?
    Extract the code of the error.
    Give me nothing but the error's code.
    For the log, I need the error code named here.
    pull the err code out of the text
    """)  # fmt: skip
def _(rng: Random):
    code = rng.choice(
        (
            f"E{rng.randint(10, 999)}",
            f"{rng.randint(400, 599)}",
            f"ERR-{rng.randint(10, 99)}",
            f"0x{rng.randint(16, 255):02X}",
            f"{rng.choice('ABCXYZ')}{rng.randint(100, 999)}",
        )
    )
    product, day = rng.choice(PRODUCTS), rng.choice(DAYS)
    return rng.choice((
        f"The {product} shows error {code} since {day}.", f"When I press start, I get code {code} and the {product} stops.", f"Error {code}: please contact support. What does it mean?",
        f"Version {rng.randint(1, 9)}.{rng.randint(0, 9)} crashed with error code {code}.", f"My screen says \"failed ({code})\" whenever I pay.",
    )), code  # fmt: skip


@task("ticket_solved", "tickets", """
    Is the problem in the message solved? Answer solved or open.
    solved or open?
    Say solved if the customer's problem is gone, open if it is still there.
    Please mark the ticket as solved or open.
    Can we close this? Write solved if so, otherwise open.
    State of the ticket: open or solved.
    Does it work again (solved) or not yet (open)?
    Read the customer's last message and set the status, open or solved.
    One word please: open when help is still needed, solved when not.
    what's the status, solved or open
    """, "exam")  # fmt: skip
def _(rng: Random):
    slots = _slots(rng)
    label, bodies = rng.choice((
        ("solved", ("Thanks, the {product} works again.", "Never mind, I found the mistake myself.", "The new password works, thank you.", "Your tip helped, the {product} is fine now.", "All good since {day}, you can close this.", "The {product} arrived today, so everything is settled.")),
        ("open", ("The {product} still does not start.", "I tried your tip and nothing changed.", "I am waiting for my {product} since {day}.", "It worked on {day} but now the error is back.", "Nobody has called me yet.", "I still cannot log in, please help.")),
    ))  # fmt: skip
    return rng.choice(bodies).format(**slots), label


@task("customer_name", "tickets", """
    What is the customer's full name?
    Full name of the customer.
    name only
    Find the person's first and last name in the message and return both.
    Please extract the full name from this text.
    Who is writing? Give first name and surname.
    Copy the name of the customer as it is written.
    I need the name for the form, first and last.
    Which customer is it? Reply with the name.
    pull out the whole name
    """)  # fmt: skip
def _(rng: Random):
    name = " ".join(full_name(rng))
    product = rng.choice(PRODUCTS)
    return rng.choice((
        f"My name is {name} and my {product} is broken.", f"This is {name} from {rng.choice(COMPANIES)}, I ordered a {product}.", f"Customer {name} called on {rng.choice(DAYS)} about a {product}.",
        f"Please deliver the {product} to {name}, 2nd floor.", f"I, {name}, want to cancel my contract.", f"The {product} was bought by {name} in {rng.choice(MONTHS)}.",
    )), name  # fmt: skip
