"""Reviews and opinions: what is liked, what is not, how many stars, and what it is about."""

from __future__ import annotations

from random import Random

from lab.content import FIRST_NAMES, PRODUCTS
from lab.tasks import Catalogue

CATALOGUE = Catalogue()
task = CATALOGUE.task

_GOOD = ("great", "excellent", "wonderful", "lovely", "perfect", "fantastic", "very good", "superb", "really nice")
_BAD = ("terrible", "awful", "poor", "horrible", "disappointing", "very bad", "dreadful", "a joke", "useless")
_ASPECTS = {
    "price": ("it costs far too much", "much too expensive", "not worth the money", "the price is a robbery"),
    "service": ("the staff was rude", "nobody answered my questions", "the waiter ignored us", "support never called back"),
    "quality": ("it broke after a week", "it feels cheap and thin", "the seams came apart", "it stopped working soon"),
    "delivery": ("it arrived two weeks late", "the box was crushed on the way", "the driver left it in the rain", "it went to the wrong address"),
}  # fmt: skip
_THINGS = {
    "restaurant": ("The soup was {q}.", "Our waiter was {q} and the dessert came last.", "The pasta and the wine were {q}.", "We had dinner here, the menu is {q}."),
    "hotel": ("The bed was {q} and the room quiet.", "Our room was {q}.", "The breakfast and the view from the balcony were {q}.", "Check-in was {q}, the pool was closed."),
    "movie": ("The plot was {q}.", "The actors were {q} and the ending surprised me.", "The director did {q} work.", "Two hours in the cinema, and the scenes were {q}."),
    "phone": ("The battery is {q}.", "The screen is {q} and the camera too.", "Calls sound {q}.", "The touch display is {q}, it has two SIM slots."),
    "book": ("The first chapter is {q}.", "The author writes in a {q} way.", "I read all 300 pages, the story is {q}.", "The hero of the novel is {q}."),
}  # fmt: skip


def review(rng: Random, good: bool) -> str:
    """A short review that is clearly for or against."""
    product, word = rng.choice(PRODUCTS), rng.choice(_GOOD if good else _BAD)
    templates = (
        ("The {p} is {w}. I use it every day.", "I love this {p}, the quality is {w}.", "{w}! Best {p} I ever had.", "My {p} came quickly and works as promised. {w}.", "What a {w} {p}, my whole family enjoys it.", "Five stars for this {p}. Simply {w}.")
        if good
        else ("The {p} is {w}. I sent it back.", "I regret buying this {p}, the quality is {w}.", "{w}! Worst {p} I ever had.", "My {p} broke on the first day. {w}.", "Do not buy this {p}, it is {w}.", "One star for this {p}. Just {w}.")
    )  # fmt: skip
    text = rng.choice(templates).format(p=product, w=word)
    return text[:1].upper() + text[1:]


@task("review_sentiment", "reviews", """
    Is the review positive or negative?
    Answer positive or negative for the review.
    positive / negative?
    Label the opinion "positive" if the writer is happy and "negative" if not.
    Please decide whether this review is positive or negative.
    How does the customer feel about the product? Say positive or negative.
    Tell me in one word, positive or negative, what the reviewer thinks.
    We count opinions; reply with positive for praise and negative for criticism.
    sentiment of the review, positive or negative
    Does the buyer like it (positive) or not (negative)?
    """)  # fmt: skip
def _(rng: Random):
    good = rng.random() < 0.5
    return review(rng, good), "positive" if good else "negative"


@task("review_mood_smiley", "reviews", """
    Answer with :) for a happy review and :( for an unhappy one.
    Smiley for the review: :) or :(
    Put the customer's mood into a smiley, :) or :(.
    If the review is good write :) and if it is bad write :(
    Please reply with a smiling or a sad face, :) or :(, as fits the review.
    Turn the opinion into :) when they are pleased or :( when they are not.
    Which face would the reviewer make, :) or :( ?
    No words, just :) for praise and :( for complaints.
    mood as smiley pls, :) or :(
    Read the review and draw :) or :(
    """)  # fmt: skip
def _(rng: Random):
    good = rng.random() < 0.5
    return review(rng, good), ":)" if good else ":("


@task("review_stars", "reviews", """
    How many stars would this reviewer give, 1 to 5?
    Guess the star rating from 1 to 5.
    stars 1-5?
    Give the rating that goes with the review as a number between 1 and 5.
    Please turn the opinion into stars: 1 is the worst and 5 the best.
    Rate the review from 1 (hated it) to 5 (loved it).
    Which number of stars fits the text? Reply with a digit from 1 to 5.
    On a scale of one to five, how happy is the customer? One digit only.
    The review lost its rating. Write the number of stars it had.
    What score out of five?
    """)  # fmt: skip
def _(rng: Random):
    stars = rng.randint(1, 5)
    text = rng.choice({
        1: ("Worst {p} ever, a total waste of money.", "Terrible {p}. It never worked and nobody helped me.", "I hate this {p}. Horrible."),
        2: ("The {p} is rather bad, but at least it was cheap.", "Disappointed with the {p}, it does only half of what it should.", "Not good. The {p} has many flaws."),
        3: ("The {p} is okay, nothing special.", "An average {p}, some things are good and some are bad.", "It does its job, but the {p} is neither great nor bad."),
        4: ("A good {p} with a small flaw.", "I like the {p}, only the color could be nicer.", "Nearly perfect {p}, just a bit loud."),
        5: ("The best {p} I have ever had, simply perfect!", "I love everything about this {p}.", "Amazing {p}, I would buy it again at once!"),
    }[stars]).format(p=rng.choice(PRODUCTS))  # fmt: skip
    return text, str(stars)


@task("review_complaint_about", "reviews", """
    What does the customer criticize: price, service, quality or delivery?
    Is the complaint about price, service, quality or delivery?
    price / service / quality / delivery
    Name the weak point: price, service, quality or delivery.
    Please tag the complaint with price, service, quality or delivery.
    Which of these four bothers the reviewer, price, service, quality, delivery?
    Find out what went wrong and answer price, service, quality or delivery.
    For our statistics, sort the criticism under delivery, quality, service or price.
    One word: did the price, the service, the quality or the delivery annoy them?
    What is wrong, quality, price, delivery or service?
    """)  # fmt: skip
def _(rng: Random):
    label = rng.choice(tuple(_ASPECTS))
    text, product = rng.choice(_ASPECTS[label]), rng.choice(PRODUCTS)
    return rng.choice(
        (
            f"I bought a {product}, but {text}.",
            f"{text[:1].upper() + text[1:]}. A pity, I wanted to like the {product}.",
            f"About the {product}: {text}.",
            f"No stars for the {product}, {text}!",
        )
    ), label


@task("review_of_what", "reviews", """
    What is being reviewed: restaurant, hotel, movie, phone or book?
    Is this a review of a restaurant, hotel, movie, phone or book?
    restaurant, hotel, movie, phone or book?
    Say which kind of thing the review is about. Choose from restaurant, hotel, movie, phone, book.
    Please classify the review as restaurant, hotel, movie, phone or book.
    One of five shelves: restaurant, hotel, movie, phone, book. Where does the review go?
    The writer rates something. Is it a book, a phone, a movie, a hotel or a restaurant? One word.
    Guess the thing: phone, book, hotel, restaurant or movie.
    Which category, movie, book, phone, hotel, restaurant, does it belong to?
    about what is the opinion (hotel, restaurant, book, movie, phone)
    """)  # fmt: skip
def _(rng: Random):
    label = rng.choice(tuple(_THINGS))
    return rng.choice(_THINGS[label]).format(q=rng.choice((*_GOOD, *_BAD[:6]))), label


@task("review_recommends", "reviews", """
    Would the writer recommend it? Answer yes or no.
    Recommended, yes or no?
    Say yes if the reviewer tells others to buy or visit, no if they warn.
    Does the review advise for it (yes) or against it (no)?
    Please tell me whether they would recommend it: yes or no.
    recommend? yes/no
    Should I go for it, going by this review? yes or no
    Reply no if the author advises others to stay away, and yes if the author advises to get it.
    Is this a recommendation (yes) or a warning (no)?
    Yes or no: would this person suggest it to a friend?
    """, "validation")  # fmt: skip
def _(rng: Random):
    product, name = rng.choice(PRODUCTS), rng.choice(FIRST_NAMES)
    label, texts = rng.choice((
        ("yes", (f"Everyone should get this {product}.", f"I told {name} to buy the same {product}.", f"Go and get the {product} while you can!", f"If you need a {product}, take this one.", f"I would give this {product} to any friend.")),
        ("no", (f"Stay away from this {product}.", f"I told {name} not to buy this {product}.", f"Save your money, no one needs this {product}.", f"If you need a {product}, take any other one.", f"I would not give this {product} to a friend.")),
    ))  # fmt: skip
    return rng.choice(texts), label


@task("review_mixed", "reviews", """
    Which good point does the review name? Copy it.
    What does the reviewer like?
    Copy the praised thing.
    The review has one good and one bad point. Return the good one.
    Please extract what the customer liked.
    Pros only: what was good?
    Name the part that was liked, without the part that was not.
    What was nice about it according to the text?
    pull out the thing they liked
    Which feature gets praise?
    """)  # fmt: skip
def _(rng: Random):
    liked, disliked = rng.sample(
        (
            "battery",
            "screen",
            "price",
            "color",
            "sound",
            "size",
            "design",
            "speed",
            "camera",
            "packaging",
            "handle",
            "weight",
            "motor",
            "fabric",
        ),
        2,
    )
    product = rng.choice(PRODUCTS)
    return rng.choice(
        (
            f"I like the {liked} of the {product}, but the {disliked} is bad.",
            f"The {disliked} of this {product} is poor. The {liked}, however, is great.",
            f"Great {liked}, awful {disliked}.",
            f"While the {disliked} let me down, the {liked} of the {product} is wonderful.",
        )
    ), liked


@task("review_title", "reviews", """
    Write a title for the review.
    Give the review a short headline.
    title pls
    What headline fits this review?
    Please put a title of a few words above this review.
    The shop asks for a title with every review. Write one.
    Sum up the review in a title.
    Which title would you give the opinion below?
    Come up with a short heading for this customer review.
    Headline for the review?
    """)  # fmt: skip
def _(rng: Random):
    product = rng.choice(PRODUCTS)
    opinion, texts = rng.choice((
        ("Great {p}", ("This {p} is wonderful and I use it all the time.", "I am very happy with the {p}, it works well.", "Super {p}, my friends want one too.")),
        ("Broken {p}", ("The {p} arrived in pieces.", "After two days the {p} was broken.", "My {p} had a crack right out of the box.")),
        ("{p} too expensive", ("I like the {p}, but nobody should pay that much for it.", "Far too much money for a simple {p}.", "The price of this {p} is crazy.")),
        ("{p} arrived late", ("I waited three weeks for the {p}.", "The {p} came ten days after the promised date.", "Delivery of the {p} took forever.")),
        ("Wrong {p}", ("They sent me a different {p} than I ordered.", "I asked for a black {p} and got a pink one.", "That is not the {p} in the picture.")),
    ))  # fmt: skip
    title = opinion.format(p=product)
    return rng.choice(texts).format(p=product), title[:1].upper() + title[1:]


@task("opinion_or_fact", "reviews", """
    Is the sentence a fact or an opinion?
    fact or opinion?
    Label the sentence "fact" or "opinion".
    Say fact if it can be checked, opinion if it is a matter of taste.
    Please decide between fact and opinion.
    Could one prove it (fact) or is it somebody's view (opinion)?
    One word, opinion or fact, for this statement.
    Pupils sort statements. Does this one go under fact or under opinion?
    Is that someone's opinion or a fact? Answer opinion or fact.
    Objective statements are fact, judgments are opinion. Which is this?
    """, "exam")  # fmt: skip
def _(rng: Random):
    product, number = rng.choice(PRODUCTS), rng.randint(2, 40)
    label, texts = rng.choice((
        ("fact", (f"The {product} weighs {number} pounds.", f"The {product} was made in {2000 + number % 25}.", "Paris is the capital of France.", f"The shop sold {number} of these last week.", "Water freezes at zero degrees.", f"The {product} comes with a {number}-month warranty.", "A week has seven days.", f"This {product} has a blue box.")),
        ("opinion", (f"The {product} is the most beautiful one ever made.", f"I think every home needs a {product}.", "Paris is nicer than Rome.", f"Nobody should spend money on a {product}.", "Winter is the best season.", f"A {product} makes a boring gift.", "Cats are better than dogs.", f"The blue {product} looks ugly.")),
    ))  # fmt: skip
    return rng.choice(texts), label
