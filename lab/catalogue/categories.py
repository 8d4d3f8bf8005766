"""Sorting things and texts under named labels."""

from __future__ import annotations

from random import Random

from lab.content import DAYS, FIRST_NAMES, LISTS, PRODUCTS, proper, sentence, words
from lab.tasks import Catalogue

CATALOGUE = Catalogue()
task, labels = CATALOGUE.task, CATALOGUE.labels

_PLACES = words("Paris,London,Berlin,Tokyo,Boston,Rome,Madrid,Chicago,Oslo,Vienna,Lima,Cairo", ",")
_NEWS = {
    "sports": ("{c} wins the final after extra time", "Star player {n} injured before the match", "{c} coach resigns after third defeat", "{n} breaks the world record in the marathon", "Fans celebrate as {c} takes the cup", "{n} reaches the semifinal in tennis"),
    "politics": ("Mayor of {c} loses the election", "Parliament votes on a new tax law", "President meets ministers in {c}", "{n} elected as head of the party", "Government in {c} announces new rules", "Protests against the reform in {c}"),
    "technology": ("New phone comes with a better camera", "Software update closes security hole", "{c} start-up builds a robot for kitchens", "Engineer {n} presents a faster chip", "App helps drivers find parking in {c}", "Researchers in {c} train a language model"),
    "health": ("Doctors in {c} warn of a strong flu season", "Study: walking lowers blood pressure", "New vaccine tested in {c}", "{n} explains why sleep matters for the heart", "Hospital in {c} opens a children's ward", "Too much sugar is bad for your teeth, dentists say"),
}  # fmt: skip


@task("news_topic", "categories", """
    What is the headline about: sports, politics, technology or health?
    sports, politics, technology or health?
    Classify the headline as sports, politics, technology or health.
    Please sort the news under one of: sports, politics, technology, health.
    Which section of the paper does it belong to, sports, politics, technology or health?
    Label the news with health, technology, politics or sports.
    One word for the topic; the choices are politics, sports, health, technology.
    Our site has the sections health, sports, technology and politics. Where does this go?
    topic of the news (sports/politics/technology/health)
    Is this about technology, health, sports or politics?
    """)  # fmt: skip
def _(rng: Random):
    label = rng.choice(tuple(_NEWS))
    return rng.choice(_NEWS[label]).format(c=rng.choice(_PLACES), n=rng.choice(FIRST_NAMES)), label


@task("emotion", "categories", """
    What does the speaker feel: joy, anger, fear or sadness?
    joy, anger, fear or sadness?
    Name the emotion in the sentence. Choose from joy, anger, fear, sadness.
    Label the feeling as joy, anger, fear or sadness.
    Please tell me whether this is joy, anger, fear or sadness.
    How does the person feel? One of: sadness, fear, anger, joy.
    Which of the four emotions anger, fear, joy and sadness fits best?
    Read the mood: joy, sadness, anger, fear.
    emotion pls (joy/anger/fear/sadness)
    Mark the sentence with the emotion it expresses: fear, joy, sadness or anger.
    """)  # fmt: skip
def _(rng: Random):
    name, product = rng.choice(FIRST_NAMES), rng.choice(PRODUCTS)
    label, texts = rng.choice(tuple({
        "joy": ("I am so happy, {n} is coming home!", "What a wonderful day, I could dance!", "Yes! We won a {p}!", "I can't stop smiling since {n} called.", "This is the best birthday ever."),
        "anger": ("How dare {n} take my {p}!", "I have had enough of these lies!", "This makes me furious.", "Stop shouting at me or I will leave!", "{n} broke my {p} on purpose, what a nerve!"),
        "fear": ("Someone is in the house, I hear steps.", "I am scared of the dark.", "What if {n} does not come back?", "My hands shake before the exam.", "Please don't leave me alone here, {n}."),
        "sadness": ("I miss {n} so much.", "My dog died yesterday.", "I have been crying since {n} left.", "Nobody came to my party.", "I feel so empty without my old {p}."),
    }.items()))  # fmt: skip
    return rng.choice(texts).format(n=name, p=product), label


labels("food_group", "categories", """
    Is it a fruit, vegetable, meat or dairy product? Answer fruit, vegetable, meat or dairy.
    fruit, vegetable, meat or dairy?
    Classify the food: fruit, vegetable, meat, dairy.
    Which food group is this? Choose between fruit, vegetable, meat and dairy.
    Please label the food with fruit, vegetable, meat or dairy.
    In which part of the shop is it: dairy, meat, fruit or vegetable?
    Sort the groceries into fruit, vegetable, meat and dairy.
    What sort of food is it, meat, dairy, vegetable or fruit?
    One word: dairy, fruit, meat or vegetable.
    food group pls (fruit/vegetable/meat/dairy)
    """, {
    "fruit": LISTS["fruit"], "vegetable": LISTS["vegetable"],
    "meat": words("beef pork chicken ham bacon sausage lamb veal turkey salami steak meatballs"),
    "dairy": words("milk,cheese,butter,yogurt,cream,cream cheese,mozzarella,whipped cream,buttermilk,cottage cheese,sour cream", ","),
})  # fmt: skip
labels("animal_class", "categories", """
    Is the animal a mammal, bird, fish or insect?
    mammal, bird, fish or insect?
    Classify the animal as mammal, bird, fish or insect.
    Please say to which class the animal belongs: mammal, bird, fish, insect.
    What kind of animal is it? Options: insect, fish, bird, mammal.
    Biology homework: write mammal, bird, fish or insect.
    Put the animal into one of four boxes labeled bird, insect, mammal and fish.
    class of the animal pls, mammal/bird/fish/insect
    Which is it, a fish, an insect, a bird or a mammal? One word.
    Tell the animal's group, one of mammal, fish, bird and insect.
    """, {
    "mammal": words("dog cat horse cow whale mouse lion elephant bat bear rabbit monkey wolf deer pig sheep goat fox camel dolphin"),
    "bird": words("eagle owl duck parrot penguin swan crow pigeon robin sparrow hawk goose hen turkey ostrich flamingo seagull stork"),
    "fish": words("salmon tuna shark trout cod carp herring sardine pike goldfish eel mackerel perch catfish anchovy"),
    "insect": words("bee ant fly mosquito butterfly beetle wasp grasshopper moth ladybug cricket dragonfly termite cockroach flea"),
}, "exam")  # fmt: skip
labels("land_air_water", "categories", """
    Does the vehicle move on land, in the air or on water? Answer land, air or water.
    land, air or water?
    Where does it travel: land, air, water?
    Classify the vehicle by land, air or water.
    Please answer with land, air or water for this vehicle.
    Is it for the road or rails (land), the sky (air) or the sea (water)?
    Tell where one uses it, water, land or air.
    Sort vehicles into air, land and water.
    One word, air or water or land.
    land/air/water pls
    """, {
    "land": words("car,bus,train,bicycle,truck,tram,motorcycle,taxi,tractor,ambulance,scooter,van,sled,wagon,fire truck", ","),
    "air": words("plane,helicopter,glider,hot-air balloon,jet,drone,airship,rocket,parachute,paraglider,biplane,seaplane", ","),
    "water": words("ship,boat,canoe,ferry,submarine,yacht,raft,kayak,sailboat,rowboat,gondola,tanker,cruise ship,lifeboat", ","),
})  # fmt: skip
labels("solid_liquid_gas", "categories", """
    Is it a solid, a liquid or a gas at room temperature? Answer solid, liquid or gas.
    solid, liquid or gas?
    State of matter: solid, liquid, gas.
    Please classify the substance as solid, liquid or gas.
    In a normal room, is this gas, liquid or solid?
    Physics quiz: write solid, liquid or gas.
    Can you pour it (liquid), hold it (solid) or breathe it (gas)?
    Which of the three states is it in? liquid, gas or solid
    Label the material with its state, one of gas, solid, liquid.
    state pls (solid/liquid/gas)
    """, {
    "solid": words("iron stone wood glass salt gold sugar paper brick copper rubber coal plastic sand silver wax diamond"),
    "liquid": words("water,milk,oil,petrol,wine,juice,vinegar,coffee,blood,alcohol,tea,beer,paint,lemonade,honey,shampoo", ","),
    "gas": words("oxygen,air,helium,steam,hydrogen,nitrogen,carbon dioxide,methane,neon,argon,ozone,natural gas,propane,chlorine", ","),
}, "exam")  # fmt: skip
labels("meal", "categories", """
    Is this eaten for breakfast, dinner or dessert? Answer breakfast, dinner or dessert.
    breakfast, dinner or dessert?
    Which meal is it? Choose breakfast, dinner or dessert.
    Please classify the dish as breakfast, dinner or dessert.
    When would you serve it, as dessert, for dinner or for breakfast?
    Sort the menu into breakfast, dinner and dessert.
    One word for the meal: dinner, dessert, breakfast.
    Morning food is breakfast, a warm evening meal is dinner, sweets at the end are dessert. Which one is this?
    Label the dish (dessert, breakfast, dinner).
    meal pls
    """, {
    "breakfast": words("cereal,toast with jam,porridge,scrambled eggs,pancakes with syrup,granola with yogurt,a croissant,muesli,bacon and eggs,oatmeal", ","),
    "dinner": words("roast beef,spaghetti with meatballs,fried fish with potatoes,chicken curry,lasagna,beef stew,grilled salmon,pork chops,vegetable soup,pizza", ","),
    "dessert": words("ice cream,chocolate cake,apple pie,tiramisu,pudding,cheesecake,fruit salad with cream,brownies,creme brulee,lemon tart", ","),
})  # fmt: skip
labels("school_subject", "categories", """
    Which school subject is the question from: math, history, science or music?
    math, history, science or music?
    Sort the question by subject: math, history, science, music.
    Please say whether this belongs to math, history, science or music.
    In which lesson is it asked? Options: music, science, history, math.
    Label the exam question math, history, science or music.
    Which teacher could answer, the one for math, history, science or music?
    One word for the subject: science, music, math or history.
    Put the quiz card on the right pile, history, math, music or science.
    subject pls (math/history/science/music)
    """, {
    "math": ("What is 7 times 8?", "How many degrees has a triangle?", "Solve x + 3 = 10.", "What is the square root of 81?", "How do you add fractions?", "What is 15 percent of 200?", "Which number is prime, 9 or 11?", "What is the area of a circle?"),
    "history": ("Who was the first president of the USA?", "When did the Second World War end?", "Who built the pyramids?", "Why did the Roman Empire fall?", "What was the Cold War?", "Which king had six wives?", "When was the French Revolution?", "Who discovered America in 1492?"),
    "science": ("Why do leaves turn green?", "What is water made of?", "How does a magnet work?", "What do plants need to grow?", "Which planet is closest to the sun?", "How does the heart pump blood?", "What is an atom?", "Why does ice float?"),
    "music": ("How many strings has a violin?", "Who composed the Moonlight Sonata?", "What is a chord?", "Which clef do cellists read?", "What does forte mean?", "How many keys has a piano?", "What is a choir?", "Which note follows do and re?"),
}, "train")  # fmt: skip
labels("expense_type", "categories", """
    Is the expense for travel, meals or office? Answer travel, meals or office.
    travel, meals or office?
    Book the expense under travel, meals or office.
    Please classify this receipt: travel, meals, office.
    Which cost category fits, office, meals or travel?
    Accounting: label the item with travel, meals or office.
    Sort my receipts into meals, office and travel.
    One word per expense, meals or travel or office.
    What did the money go to: travel, office or meals?
    expense category pls (travel/meals/office)
    """, {
    "travel": ("Taxi to the airport, $32", "Train ticket to Berlin, $58", "Hotel, two nights, $210", "Flight to Chicago, $340", "Parking at the station, $12", "Rental car, one day, $75", "Bus pass, $20", "Fuel for the company car, $44"),
    "meals": ("Lunch with a client, $48", "Coffee and cake for guests, $19", "Dinner for three, $96", "Sandwiches for the meeting, $27", "Breakfast at the hotel, $14", "Pizza for the team, $60", "Drinks with partners, $35"),
    "office": ("Printer paper, $16", "Two desk lamps, $70", "Ink cartridges, $42", "New keyboard, $39", "Office chair, $150", "Stamps and envelopes, $11", "Pens and folders, $23", "Whiteboard, $88"),
})  # fmt: skip
labels("smart_home", "categories", """
    Which device is the command for: light, heating or music?
    light, heating or music?
    Route the voice command to light, heating or music.
    Please label the request with light, heating or music.
    What should the smart home control, music, light or heating?
    One word for the device: heating, light, music.
    Sort the commands of the house into light, heating and music.
    Is the user talking to the lamps (light), the radiators (heating) or the speakers (music)?
    device pls: light/heating/music
    Which part of the home is meant, heating, music or light?
    """, {
    "light": ("It is too dark in here", "Turn off the lamp in the hall", "Make the kitchen brighter", "Dim the bedroom please", "I want to read, I can't see anything", "Switch on the porch lamp", "Blue lamps for the party", "Everything off, I go to sleep and want it dark"),
    "heating": ("I am cold", "Make it 21 degrees", "It is too warm in the bathroom", "Turn up the radiator", "Lower the temperature at night", "My feet are freezing", "Warm up the living room before I come home", "Set the thermostat to 19"),
    "music": ("Play some jazz", "Turn the song down", "Next track please", "Louder, I love this song", "Stop the radio", "Something calm to listen to", "Play my workout playlist", "Who sings this? Play it again"),
}, "exam")  # fmt: skip
labels("bank_intent", "categories", """
    What does the bank customer want: balance, transfer or lost card?
    balance, transfer or lost card?
    Label the request: balance, transfer, lost card.
    Please choose the right menu for the customer: balance, transfer or lost card.
    The bank's robot knows balance, transfer and lost card. Which one fits?
    Is the customer asking for the balance, a transfer, or reporting a lost card? Use those words.
    One label: transfer, lost card or balance.
    Route the call to balance, lost card or transfer.
    intent pls (balance/transfer/lost card)
    Which service is needed, lost card, balance or transfer?
    """, {
    "balance": ("How much money do I have?", "What is left on my account?", "Can I see my savings?", "Tell me my current amount", "Do I have enough for the rent?", "Show me how much is in there", "Is my salary there yet, what's the total?"),
    "transfer": ("Send 50 dollars to Anna", "I want to pay my landlord", "Move 200 to my savings account", "Please wire money to my son", "I need to pay an invoice", "Can you send 20 euros to Tom?", "Pay 75 dollars to the gym"),
    "lost card": ("I can't find my card", "Someone stole my wallet", "My debit card is gone", "Block my card please", "I left my card in a taxi", "My credit card was stolen", "I need a new card, the old one is lost"),
})  # fmt: skip
labels("asks_for", "categories", """
    What does the question ask for: person, place, time or number?
    person, place, time or number?
    Type of answer expected: person, place, time, number.
    Please say whether the answer to this question is a person, a place, a time or a number (one word).
    Sort the questions under person, place, time and number.
    Who-questions are person, where-questions place, when-questions time, how-many-questions number. Label it.
    One word: is it asking for a place, a person, a number or a time?
    What sort of answer fits, number, time, place or person?
    answer type pls (person/place/time/number)
    Tag the question with time, person, number or place.
    """, {
    "person": ("Who wrote the letter?", "Who is your teacher?", "Whose book is this?", "Who won the race?", "By whom was it painted?", "Who called last night?", "Who is the tall man?", "Who invented the telephone?"),
    "place": ("Where do you live?", "Where is the station?", "In which town was she born?", "Where can I buy stamps?", "Where did you park?", "Where does the bus stop?", "In which country is Oslo?"),
    "time": ("When does the film start?", "What time is it?", "When were you born?", "In which year did it happen?", "When will you be back?", "On which day do we meet?", "When is the deadline?", "Since when do you work here?"),
    "number": ("How many eggs are left?", "How much does it cost?", "How tall is the tower in meters?", "How many people came?", "What is your shoe size?", "How old is she?", "How many pages has the book?", "How far is it in miles?"),
})  # fmt: skip
labels("healthy_or_not", "categories", """
    Is the food healthy or unhealthy?
    healthy or unhealthy?
    Label the food healthy or unhealthy.
    Please judge the snack: healthy or unhealthy.
    Would a doctor call this healthy or unhealthy?
    Say healthy for good food and unhealthy for junk food.
    What does a dietitian say, unhealthy or healthy?
    Sort the foods into healthy and unhealthy.
    Should I eat a lot of it (healthy) or not (unhealthy)?
    healthy/unhealthy pls
    """, {
    "healthy": words("broccoli,apple,oatmeal,salad,lentils,spinach,berries,water,grilled fish,nuts,carrots,plain yogurt,whole-grain bread,beans,tomatoes,brown rice,pears,green tea", ","),
    "unhealthy": words("french fries,candy,soda,donuts,potato chips,cotton candy,milkshake with cream,fried chicken,chocolate bars,ice cream,energy drinks,hot dogs,cookies,bacon cheeseburger,sugary cereal,onion rings", ","),
}, "exam")  # fmt: skip
labels("big_or_small", "categories", """
    Is the thing bigger or smaller than a person? Answer bigger or smaller.
    bigger or smaller than a person?
    Compare the thing's size with a human: bigger or smaller.
    Please answer bigger if it is larger than a person, otherwise smaller.
    Could a person carry it in a pocket or bag (smaller), or does it tower over us (bigger)?
    Size test against a human being: smaller or bigger?
    Say bigger for huge things and smaller for little things, measured by a person.
    One word: smaller or bigger than you?
    Sort objects into bigger and smaller (than a human).
    bigger/smaller pls
    """, {
    "bigger": words("elephant,house,bus,whale,mountain,ship,bridge,giraffe,truck,tower,train,castle,airplane,church,tractor,crane,stadium", ","),
    "smaller": words("mouse,spoon,pencil,apple,key,ant,cup,coin,egg,ring,button,book,shoe,sparrow,lemon,candle,watch,mushroom", ","),
})  # fmt: skip
labels("noun_verb_adjective", "categories", """
    Is the word a noun, a verb or an adjective? Answer noun, verb or adjective.
    noun, verb or adjective?
    Part of speech: noun, verb, adjective.
    Please classify the word as noun, verb or adjective.
    Grammar check: which one, adjective, noun or verb?
    Does it name a thing (noun), say what one does (verb) or describe (adjective)?
    One word for its kind: verb, adjective or noun.
    Sort the words into nouns, verbs and adjectives; use the singular label.
    word class pls (noun/verb/adjective)
    What part of speech is it, verb or noun or adjective?
    """, {
    "noun": words("teacher window bottle village doctor pencil basket kitchen mountain uncle garden carpet hospital candle farmer museum"),
    "verb": words("eat sing write bring forget carry choose become explain understand arrive throw teach swim believe borrow"),
    "adjective": words("happy tall angry beautiful heavy dirty quiet famous empty lazy brave expensive hungry gentle narrow clever"),
})  # fmt: skip
labels("room_of_thing", "categories", """
    In which room is it usually: kitchen, bathroom or bedroom?
    kitchen, bathroom or bedroom?
    Which room does the thing belong to? Choose kitchen, bathroom or bedroom.
    Please put the object into the right room: kitchen, bathroom, bedroom.
    We are moving. Label the box kitchen, bathroom or bedroom.
    Where would you look for it, in the bedroom, the bathroom or the kitchen?
    One word: bathroom, bedroom or kitchen.
    Sort household things by room (bedroom, kitchen, bathroom).
    room pls
    Is this found in the bathroom, the kitchen or the bedroom?
    """, {
    "kitchen": words("stove,frying pan,toaster,fridge,spatula,dishwasher,kettle,oven,cutting board,blender,corkscrew,rolling pin", ","),
    "bathroom": words("toothbrush,shower,toilet,bathtub,shampoo,toilet paper,bath mat,razor,toothpaste,soap dish,hair dryer", ","),
    "bedroom": words("bed,pillow,blanket,nightstand,wardrobe,pajamas,alarm clock,mattress,bed sheet,bedside lamp,duvet", ","),
}, "validation")  # fmt: skip
labels("book_genre", "categories", """
    Guess the genre of the book: crime, romance, fantasy or cookbook.
    crime, romance, fantasy or cookbook?
    Which shelf: crime, romance, fantasy, cookbook?
    Please sort the book by its blurb into crime, romance, fantasy or cookbook.
    Label the blurb with one genre out of fantasy, crime, cookbook and romance.
    In the bookshop, where do I put it: romance, cookbook, crime or fantasy?
    One word for the genre, cookbook or fantasy or romance or crime.
    From the description, is it a cookbook, crime, fantasy or romance?
    genre pls (crime/romance/fantasy/cookbook)
    What kind of book is this? Options: romance, crime, fantasy, cookbook.
    """, {
    "crime": ("A detective finds a body in the library.", "Who killed the banker? Inspector Cole has one day.", "Three clues, five suspects, one murder.", "The thief left no trace but a glove.", "A quiet village, a poisoned cake, and a curious widow."),
    "romance": ("Two neighbors fall in love over a lost dog.", "She hated him until the dance in June.", "A wedding, an old love letter and a second chance.", "He moved to Paris to forget her, and met her sister.", "Love blooms in a small flower shop."),
    "fantasy": ("A young wizard must find the dragon's egg.", "The elves return to a kingdom of ice.", "With a magic sword she fights the troll king.", "In a world of floating islands a boy learns to fly.", "The last witch opens the gate of shadows."),
    "cookbook": ("Sixty quick dinners with five ingredients.", "From soups to desserts: the best of Italian kitchens.", "How to bake bread at home, step by step.", "Vegan recipes for every day.", "One pot, one spoon: easy stews for winter."),
}, "validation")  # fmt: skip


@task("message_audience", "categories", """
    Is it addressed to a customer, a colleague or a friend? Answer customer, colleague or friend.
    customer, colleague or friend?
    Guess who the message is for: customer, colleague, friend.
    Please label the reader of the message with customer, colleague or friend.
    To whom is this written? Choose friend, customer or colleague.
    Who will read it, a colleague, a friend or a customer? One word.
    Sort outgoing mails by reader: friend, colleague, customer.
    Is that for someone who buys from us (customer), works with us (colleague) or a pal (friend)?
    reader pls (customer/colleague/friend)
    Decide on the audience: colleague, customer or friend.
    """)  # fmt: skip
def _(rng: Random):
    product, day = rng.choice(PRODUCTS), rng.choice(DAYS)
    label, texts = rng.choice(tuple({
        "customer": ("Thank you for ordering the {p}; it will arrive on {d}.", "Your {p} is under warranty, please send it to us.", "We offer you ten percent off the {p}.", "We are sorry about the delay of your {p}."),
        "colleague": ("Can you take over my shift on {d}?", "The boss wants the {p} report by {d}.", "Our team meeting is moved to {d}.", "Please review my slides before {d}.", "Who orders toner for the office printer?"),
        "friend": ("Movie night at my place on {d}? Bring chips!", "Miss you! Let's grab a beer on {d}.", "Haha, remember when we lost the {p} at the lake?", "Happy birthday, buddy! The {p} is for you.", "Mom says hi, see you at the barbecue on {d}."),
    }.items()))  # fmt: skip
    return rng.choice(texts).format(p=product, d=day), label


@task("same_or_different_meaning", "categories", """
    Do the two sentences say the same? Answer same or different.
    same or different?
    Compare the sentences before and after the bar: same or different meaning.
    Please write same if both mean the same thing and different if not.
    Is the second a repetition of the first in other words (same) or something else (different)?
    Meaning of the pair: same / different.
    Paraphrase check. Reply same or different.
    Would both sentences be true at once for the same reason? same if they say one thing, else different
    Tell me whether they are the same in content or different.
    same/different pls
    """)  # fmt: skip
def _(rng: Random):
    pairs = (
        ("The shop is closed.", "The store is not open."), ("He is very tired.", "He needs sleep badly."), ("She bought a car.", "A car was bought by her."), ("It is cold outside.", "The weather is chilly."),
        ("The film was boring.", "The movie was not interesting."), ("I can't swim.", "I don't know how to swim."), ("Tom is taller than Ben.", "Ben is shorter than Tom."), ("The bag is heavy.", "The bag weighs a lot."),
        ("She arrived early.", "She came before the time."), ("He lost his keys.", "He cannot find his keys anymore."), ("The test was easy.", "The exam was not hard."), ("We have no milk.", "There is no milk left."),
        ("The dog is asleep.", "The dog is sleeping."), ("My phone is broken.", "My phone does not work."), ("They live nearby.", "Their home is not far."), ("The cup is empty.", "There is nothing in the cup."),
    )  # fmt: skip
    first, second = rng.choice(pairs)
    if rng.random() < 0.5:
        return rng.choice((f"{first} | {second}", f"{second} | {first}")), "same"
    other = rng.choice([b for a, b in pairs if a != first])
    return f"{first} | {other}", "different"


@task("then_or_now", "categories", """
    Is the sentence about the past or about now? Answer then or now.
    then or now?
    Write then if it happened in the past, now if it is happening.
    Please mark the sentence with then (past) or now (present).
    Past events get "then", present ones "now".
    Did it already happen (then) or is it going on (now)?
    One word, now or then.
    Sort sentences by time: then, now.
    Look at the verb: past means then, present means now.
    then/now pls
    """)  # fmt: skip
def _(rng: Random):
    if rng.random() < 0.5:
        return proper(sentence(rng)), "then"
    subject = rng.choice(("My brother", "The teacher", "Anna", "Our neighbor", "The cook", "Tom"))
    return (
        f"{subject} is {rng.choice(('opening the window', 'reading the paper', 'cleaning the kitchen', 'singing a song', 'walking home', 'drinking tea', 'fixing the chair', 'writing a letter', 'baking bread', 'planting a tree'))}{rng.choice(('', ' right now', ' at the moment', ' again'))}.",
        "now",
    )


@task("small_ad", "categories", """
    Is the text about a pet, a car or a house? Answer pet, car or house.
    pet, car or house?
    Classify the ad: pet, car or house.
    Please sort the small ads under pet, car and house.
    What is offered, a house, a pet or a car?
    Label the advertisement with one of house, pet, car.
    One word for the ad's subject: car, house, pet.
    Which column of the newspaper does this ad go in, pet, car or house?
    ad category pls (pet/car/house)
    Is somebody selling a car, a house or a pet?
    """)  # fmt: skip
def _(rng: Random):
    number, city = rng.randint(2, 9), rng.choice(_PLACES)
    label, texts = rng.choice(tuple({
        "pet": ("{x} playful kittens look for a home in {c}", "Friendly dog, {x} years old, good with children", "Parrot with cage to give away, {c}", "Young rabbit, {x} months, very tame", "Puppies ready in {x} weeks"),
        "car": ("Red van, {x}0,000 miles, new tires", "Used taxi for sale in {c}, diesel", "Convertible, {x} years old, automatic", "Four-door, low mileage, one owner, {c}", "Winter tires and full tank included, {x} seats"),
        "house": ("{x} rooms with garden near {c}", "Flat with balcony, second floor, {x} windows to the south", "Cottage with fireplace and {x} bedrooms", "Top-floor apartment in {c}, quiet street", "New kitchen, garage, {x} bedrooms, {c}"),
    }.items()))  # fmt: skip
    return rng.choice(texts).format(x=number, c=city), label
