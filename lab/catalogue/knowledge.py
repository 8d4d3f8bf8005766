"""What everybody knows: jobs and tools, holidays, countries, common words in other languages, greetings."""

from __future__ import annotations

from lab.content import rows
from lab.tasks import Catalogue

CATALOGUE = Catalogue()
table = CATALOGUE.table


def _pairs(text: str) -> dict[str, str]:
    return {row[0]: row[1] for row in rows(text)}


_PHRASES = rows(
    "Good morning=Buenos días=Bonjour=Guten Morgen; Thank you=Gracias=Merci=Danke; Please=Por favor=S'il vous plaît=Bitte; "
    "Good night=Buenas noches=Bonne nuit=Gute Nacht; Yes=Sí=Oui=Ja; No=No=Non=Nein; Goodbye=Adiós=Au revoir=Auf Wiedersehen; "
    "Hello=Hola=Salut=Hallo; I am hungry=Tengo hambre=J'ai faim=Ich habe Hunger; I am tired=Estoy cansado=Je suis fatigué=Ich bin müde; "
    "How are you?=¿Cómo estás?=Comment ça va ?=Wie geht es dir?; My name is Anna=Me llamo Anna=Je m'appelle Anna=Ich heiße Anna; "
    "I love you=Te quiero=Je t'aime=Ich liebe dich; Where is the station?=¿Dónde está la estación?=Où est la gare ?=Wo ist der Bahnhof?; "
    "How much is it?=¿Cuánto cuesta?=Combien ça coûte ?=Wie viel kostet das?; I don't know=No sé=Je ne sais pas=Ich weiß nicht; "
    "See you tomorrow=Hasta mañana=À demain=Bis morgen; Happy birthday=Feliz cumpleaños=Joyeux anniversaire=Alles Gute zum Geburtstag; "
    "Good luck=Buena suerte=Bonne chance=Viel Glück; I am sorry=Lo siento=Je suis désolé=Es tut mir leid; Welcome=Bienvenido=Bienvenue=Willkommen; "
    "Help!=¡Ayuda!=Au secours !=Hilfe!; one=uno=un=eins; two=dos=deux=zwei; three=tres=trois=drei; four=cuatro=quatre=vier; five=cinco=cinq=fünf; "
    "Monday=lunes=lundi=Montag; Tuesday=martes=mardi=Dienstag; Friday=viernes=vendredi=Freitag; Sunday=domingo=dimanche=Sonntag; "
    "today=hoy=aujourd'hui=heute; tomorrow=mañana=demain=morgen; yesterday=ayer=hier=gestern; my friend=mi amigo=mon ami=mein Freund; "
    "the house=la casa=la maison=das Haus; the dog=el perro=le chien=der Hund; the water=el agua=l'eau=das Wasser; a coffee=un café=un café=ein Kaffee"
)  # fmt: skip
table("phrase_to_spanish", "translation", """
    Translate into Spanish.
    Spanish please
    How do you say that in Spanish?
    Give the Spanish translation of the phrase.
    I am going to Madrid. What do I say there?
    English to Spanish
    Put it in Spanish.
    What is this in Spanish?
    Write the phrase in the language of Spain.
    en espanol pls
    """, {row[0]: row[1] for row in _PHRASES})  # fmt: skip
table("phrase_to_french", "translation", """
    Translate into French.
    French please
    How do you say that in French?
    Give the French translation of the phrase.
    I am going to Paris. What do I say there?
    English to French
    Put it in French.
    What is this in French?
    Write the phrase in the language of France.
    en francais pls
    """, {row[0]: row[2] for row in _PHRASES})  # fmt: skip
table("phrase_to_german", "translation", """
    Translate into German.
    German please
    How do you say that in German?
    Give the German translation of the phrase.
    I am going to Berlin. What do I say there?
    English to German
    Put it in German.
    What is this in German?
    Write the phrase in the language of Germany.
    auf Deutsch pls
    """, {row[0]: row[3] for row in _PHRASES})  # fmt: skip
table("spanish_phrase_to_english", "translation", """
    Translate the Spanish phrase into English.
    Spanish to English
    What does this Spanish phrase mean?
    Please say in English what the Spanish says.
    My Spanish friend wrote this. What does it mean in English?
    English translation, please.
    into English pls
    Give the English for it.
    How would an English speaker say that?
    Read the Spanish and write English.
    """, {row[1]: row[0] for row in _PHRASES})  # fmt: skip
table("german_phrase_to_english", "translation", """
    Translate the German phrase into English.
    German to English
    What does this German phrase mean?
    Please say in English what the German says.
    My German friend wrote this. What does it mean in English?
    English translation of the German, please.
    into English pls
    Give the English for the German words.
    How would an English speaker say that German phrase?
    Read the German and write English.
    """, {row[3]: row[0] for row in _PHRASES})  # fmt: skip

table("job_workplace", "knowledge", """
    Where does this person work? Name the place.
    Workplace of the job.
    teacher becomes school. And this job?
    workplace?
    Please name the place in which one finds this worker.
    Where do you meet someone with this job?
    Give the typical place of work, one word.
    In which building or place does the person work?
    place of work pls
    At what place is this job done?
    """, _pairs(
    "teacher=school; nurse=hospital; waiter=restaurant; farmer=farm; judge=court; librarian=library; chef=kitchen; actor=theater; "
    "pilot=airplane; baker=bakery; cashier=supermarket; banker=bank; professor=university; priest=church; soldier=army; sailor=ship; "
    "miner=mine; scientist=laboratory; mechanic=garage; barber=barbershop; receptionist=hotel; zookeeper=zoo; lifeguard=beach; astronaut=space station; prisoner guard=prison; gardener=garden; pharmacist=pharmacy; referee=stadium; bartender=bar; butcher=butcher shop"
))  # fmt: skip
table("job_tool", "knowledge", """
    Which tool does this person use?
    Typical tool of the job.
    carpenter becomes hammer. And this job?
    tool?
    Please name the thing this worker needs most.
    What does the person hold at work?
    Give one typical tool, one word.
    With what does this person work?
    tool of the trade pls
    What would you draw in the hand of this worker?
    """, _pairs(
    "carpenter=hammer; painter=brush; barber=scissors; writer=pen; photographer=camera; gardener=shovel; surgeon=scalpel; cook=knife; "
    "tailor=needle; doctor=stethoscope; plumber=wrench; lumberjack=axe; violinist=bow; fisherman=net; teacher=chalk; drummer=drumsticks; "
    "programmer=computer; astronomer=telescope; biologist=microscope; cleaner=broom; electrician=screwdriver; referee=whistle; mechanic=wrench; baker=oven; soldier=rifle; sculptor=chisel; farmer=tractor; hairdresser=scissors; knight=sword; cowboy=lasso; welder=torch; secretary=keyboard"
), "validation")  # fmt: skip
table("holiday_month", "knowledge", """
    In which month is the holiday?
    Month of the holiday.
    Christmas is in December. And this one?
    month?
    Please name the month in which people celebrate this.
    When in the year is it? Answer with a month.
    Give the month of this day.
    Which page of the calendar has it?
    month pls
    What month do we celebrate it in?
    """, _pairs(
    "Christmas=December; Christmas Eve=December; New Year's Eve=December; New Year's Day=January; Valentine's Day=February; Halloween=October; "
    "Thanksgiving in the USA=November; Independence Day (USA)=July; Bastille Day=July; St. Patrick's Day=March; Labor Day in Europe=May; "
    "Saint Nicholas Day=December; April Fools' Day=April; Earth Day=April; Mother's Day in the USA=May; Father's Day in the USA=June; Boxing Day=December; "
    "Veterans Day=November; Martin Luther King Day=January; Groundhog Day=February; Women's Day=March; Canada Day=July; All Saints' Day=November; Guy Fawkes Night=November; Columbus Day=October; Epiphany=January"
), "exam")  # fmt: skip
table("number_of_legs", "knowledge", """
    How many legs does it have?
    Number of legs.
    legs?
    Count the legs of the animal or thing.
    Please tell how many legs it stands on.
    A dog has 4. And this?
    Digits: how many legs?
    Say the number of legs.
    leg count pls
    On how many legs does it go or stand?
    """, _pairs(
    "dog=4; cat=4; spider=8; ant=6; bee=6; chicken=2; human=2; snake=0; fish=0; horse=4; table=4; tripod=3; ostrich=2; crab=10; beetle=6; octopus=8; "
    "cow=4; duck=2; fly=6; elephant=4; worm=0; kangaroo=2; lizard=4; butterfly=6; eagle=2; chair=4; frog=4; mosquito=6; sheep=4; whale=0; penguin=2; scorpion=8; mouse=4; tick=8; owl=2; zebra=4; shark=0; grasshopper=6"
), "exam")  # fmt: skip
table("body_part_for_action", "knowledge", """
    Which sense organ or body part do you use for it?
    With which part of the body do you do that?
    see becomes eyes. And this?
    body part?
    Please name the part of the body for this activity.
    What do I need for that, as a body part?
    Say the body part, one word.
    Which part of me does it?
    body part pls
    Name the organ or limb used.
    """, _pairs(
    "see=eyes; hear=ears; smell=nose; taste=tongue; walk=legs; grab=hands; think=brain; bite=teeth; breathe=lungs; kick=foot; point=finger; nod=head; "
    "chew=teeth; listen=ears; look=eyes; clap=hands; run=legs; sniff=nose; lick=tongue; wink=eye; hug=arms; kiss=lips; write=hand; snap=fingers; kneel=knees; swallow=throat; whistle=lips; jump=legs; wave=hand; stomp=feet"
))  # fmt: skip
table("noun_from_verb", "words", """
    Give the noun that goes with the verb.
    decide becomes decision. And this?
    noun form pls
    Turn the verb into its noun.
    Please form the noun of this verb.
    What do you call the act of doing it?
    Which noun is made from this verb?
    verb -> noun
    Write the noun for the action.
    Make a noun of it.
    """, _pairs(
    "decide=decision; arrive=arrival; explain=explanation; invite=invitation; grow=growth; move=movement; choose=choice; fail=failure; "
    "discuss=discussion; agree=agreement; die=death; live=life; sell=sale; believe=belief; think=thought; inform=information; pay=payment; "
    "celebrate=celebration; compare=comparison; describe=description; divide=division; educate=education; improve=improvement; lose=loss; please=pleasure; press=pressure; "
    "prove=proof; react=reaction; refuse=refusal; solve=solution; speak=speech; succeed=success; weigh=weight; complain=complaint; behave=behavior; collect=collection; produce=production; protect=protection"
))  # fmt: skip
table("adjective_from_noun", "words", """
    Give the adjective that goes with the noun.
    danger becomes dangerous. And this?
    adjective form pls
    Turn the noun into its adjective.
    Please form the adjective of this noun.
    How do you describe something that has it?
    Which adjective is made from this noun?
    noun -> adjective
    Write the describing word for it.
    Make an adjective of it.
    """, _pairs(
    "danger=dangerous; beauty=beautiful; sun=sunny; noise=noisy; fame=famous; care=careful; wood=wooden; gold=golden; nation=national; "
    "health=healthy; luck=lucky; music=musical; history=historical; wind=windy; rain=rainy; cloud=cloudy; courage=courageous; child=childish; "
    "friend=friendly; help=helpful; pain=painful; peace=peaceful; power=powerful; salt=salty; science=scientific; skill=skillful; storm=stormy; taste=tasty; "
    "thirst=thirsty; hunger=hungry; truth=true; water=watery; week=weekly; day=daily; wisdom=wise; anger=angry; magic=magical; poison=poisonous; mystery=mysterious; fog=foggy"
), "validation")  # fmt: skip
table("prefix_opposite", "words", """
    Make the opposite with a prefix such as un-, in-, im-, ir- or dis-.
    happy becomes unhappy. And this?
    negative prefix pls
    Add the right prefix to get the opposite.
    Please negate the word by a prefix.
    Which word with un-, im-, in-, ir- or dis- means the contrary?
    Put a prefix in front that turns it around.
    Word with negative prefix?
    Form the negative word.
    What is not so? Use a prefix.
    """, _pairs(
    "happy=unhappy; possible=impossible; correct=incorrect; regular=irregular; like=dislike; kind=unkind; fair=unfair; patient=impatient; "
    "visible=invisible; legal=illegal; honest=dishonest; known=unknown; polite=impolite; complete=incomplete; agree=disagree; lucky=unlucky; "
    "able=unable; perfect=imperfect; responsible=irresponsible; appear=disappear; safe=unsafe; dependent=independent; mature=immature; connect=disconnect; usual=unusual; "
    "comfortable=uncomfortable; obey=disobey; important=unimportant; active=inactive; direct=indirect; healthy=unhealthy; logical=illogical; order=disorder; sure=unsure; expensive=inexpensive; moral=immoral; respect=disrespect; true=untrue"
))  # fmt: skip
table("compound_from_words", "words", """
    Which compound word do the two words make with each other?
    sun + flower becomes sunflower. And this?
    one word pls
    Join both words to one.
    Please put the words together without a space.
    Build the compound noun.
    What word do you get by adding them?
    Write both parts as a single word.
    Glue the two words together.
    word + word = ?
    """, {f"{a} + {b}": a + b for a, b in rows(
    "sun=flower; rain=bow; snow=man; foot=ball; book=shop; tooth=brush; air=port; bed=room; butter=fly; cup=cake; door=bell; fire=man; "
    "hair=cut; key=board; moon=light; news=paper; note=book; pan=cake; post=card; rail=way; sea=side; star=fish; sun=glasses; tea=pot; water=fall; "
    "week=end; wind=mill; eye=brow; ear=ring; home=work; lip=stick; pine=apple; straw=berry; basket=ball; black=board; green=house; grand=mother; back=pack; down=town; life=guard"
)})  # fmt: skip
table("proverb_end", "words", """
    Finish the saying.
    How does the proverb end?
    Complete the proverb; write only the missing end.
    proverb: rest?
    Please add the end of the well-known saying.
    Which words are missing at the end?
    Give the second half of the proverb.
    finish it pls
    The saying was cut off. What follows?
    End the proverb.
    """, _pairs(
    "The early bird catches=the worm; Better late than=never; Actions speak louder than=words; Practice makes=perfect; When in Rome, do as=the Romans do; "
    "The apple doesn't fall far from=the tree; Don't judge a book by=its cover; A picture is worth a thousand=words; All that glitters is not=gold; "
    "Two heads are better than=one; Where there is smoke, there is=fire; You can't teach an old dog=new tricks; Time is=money; Rome wasn't built in=a day; "
    "Every cloud has a silver=lining; Haste makes=waste; No news is good=news; Out of sight, out of=mind; Honesty is the best=policy; Curiosity killed=the cat; "
    "Easy come, easy=go; First come, first=served; Birds of a feather flock=together; Many hands make light=work; Absence makes the heart grow=fonder; An apple a day keeps=the doctor away; "
    "Don't put all your eggs in=one basket; Look before you=leap; Home is where=the heart is; Beggars can't be=choosers; Laughter is the best=medicine; Good things come to those who=wait; A watched pot never=boils; Knowledge is=power; Too many cooks spoil=the broth; Let sleeping dogs=lie"
), "exam")  # fmt: skip
table("color_mix", "knowledge", """
    Which color do you get by mixing the two?
    Mix the colors.
    red + yellow becomes orange. And this?
    mixed color?
    Please tell what color both paints make together.
    I stir these paints together. Which color appears?
    Result of the mixture, as a color.
    color pls
    What do these colors give?
    Name the mixture.
    """, {form.format(a=x, b=y): c for a, b, c in rows(
    "red=yellow=orange; blue=yellow=green; red=blue=purple; black=white=gray; red=white=pink"
) for x, y in ((a, b), (b, a)) for form in ("{a} + {b}", "{a} and {b}", "{a}, {b}", "{a} with {b}")})  # fmt: skip
table("family_relation", "knowledge", """
    Which family member is it? One word.
    Name the relative.
    my mother's sister becomes aunt. And this?
    relative?
    Please say what you call this person in the family.
    What is the word for this relation?
    One word for the relative described.
    who is it in the family
    How is this person related to me?
    Give the name of the family relation.
    """, _pairs(
    "my mother's sister=aunt; my father's brother=uncle; my mother's mother=grandmother; my father's father=grandfather; my brother's son=nephew; "
    "my sister's daughter=niece; my uncle's child=cousin; my parents' son=brother; my parents' daughter=sister; my child's son=grandson; my child's daughter=granddaughter; "
    "my wife's mother=mother-in-law; my husband's father=father-in-law; my mother's brother=uncle; my father's sister=aunt; my aunt's son=cousin; my father's mother=grandmother; "
    "my mother's father=grandfather; my sister's son=nephew; my brother's daughter=niece; my son's wife=daughter-in-law; my sister's husband=brother-in-law; the man I married=husband; the woman I married=wife; my mother's husband=father; my father's wife=mother; my son's son=grandson; my daughter's daughter=granddaughter"
), "exam")  # fmt: skip
table("shop_for_thing", "knowledge", """
    In which shop do you buy it? Answer bakery, pharmacy, bookstore or butcher.
    bakery, pharmacy, bookstore or butcher?
    Which store sells it: bakery, pharmacy, bookstore, butcher?
    Please send me to the right shop, one of bakery, pharmacy, bookstore and butcher.
    Where do I get that, at the butcher, the bakery, the pharmacy or the bookstore?
    Shopping: name the shop (pharmacy, butcher, bakery or bookstore).
    One word for the shop, butcher or bookstore or bakery or pharmacy.
    Sort my list by shop: bookstore, bakery, butcher, pharmacy.
    shop pls
    Which of the four, bakery, butcher, bookstore, pharmacy, has it?
    """, _pairs(
    "bread=bakery; rolls=bakery; croissants=bakery; a birthday cake=bakery; baguette=bakery; muffins=bakery; bagels=bakery; pretzels=bakery; apple pie=bakery; "
    "aspirin=pharmacy; cough syrup=pharmacy; bandages=pharmacy; vitamins=pharmacy; eye drops=pharmacy; pain killers=pharmacy; nasal spray=pharmacy; thermometer=pharmacy; plasters=pharmacy; "
    "a novel=bookstore; a dictionary=bookstore; a travel guide=bookstore; a cookbook=bookstore; a comic=bookstore; an atlas=bookstore; a biography=bookstore; a crime story=bookstore; "
    "steak=butcher; sausages=butcher; minced meat=butcher; pork chops=butcher; bacon=butcher; lamb=butcher; ham=butcher; chicken legs=butcher; ribs=butcher"
))  # fmt: skip
