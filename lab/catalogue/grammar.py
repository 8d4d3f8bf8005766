"""Sentences said another way: polite, negated, asked, in another tense or person, longer or shorter, and spelling."""

from __future__ import annotations

from random import Random

from lab.content import FEMALE, MALE, NOUNS, proper, rows, sentence, words
from lab.tasks import Catalogue

CATALOGUE = Catalogue()
task, table = CATALOGUE.task, CATALOGUE.table

# base, third person, past, participle, ing-form, object
_VERBS = rows(
    "open=opens=opened=opened=opening=the window; read=reads=read=read=reading=the newspaper; "
    "buy=buys=bought=bought=buying=fresh bread; paint=paints=painted=painted=painting=the fence; "
    "write=writes=wrote=written=writing=a letter; cook=cooks=cooked=cooked=cooking=the soup; "
    "wash=washes=washed=washed=washing=the car; sing=sings=sang=sung=singing=a song; "
    "fix=fixes=fixed=fixed=fixing=the bike; drink=drinks=drank=drunk=drinking=the tea; "
    "sell=sells=sold=sold=selling=the house; eat=eats=ate=eaten=eating=the apple; "
    "carry=carries=carried=carried=carrying=the boxes; clean=cleans=cleaned=cleaned=cleaning=the kitchen; "
    "take=takes=took=taken=taking=the photo; build=builds=built=built=building=a wall; "
    "watch=watches=watched=watched=watching=the movie; play=plays=played=played=playing=the piano; "
    "close=closes=closed=closed=closing=the door; bake=bakes=baked=baked=baking=a cake; "
    "feed=feeds=fed=fed=feeding=the cat; draw=draws=drew=drawn=drawing=a map; find=finds=found=found=finding=the key; "
    "teach=teaches=taught=taught=teaching=the class; visit=visits=visited=visited=visiting=the museum; "
    "drive=drives=drove=driven=driving=the truck; break=breaks=broke=broken=breaking=the glass; "
    "wear=wears=wore=worn=wearing=a red hat; cut=cuts=cut=cut=cutting=the grass; forget=forgets=forgot=forgotten=forgetting=the umbrella"
)  # fmt: skip
_THIRD = (*MALE, *FEMALE, "The teacher", "My sister", "The boy", "Our neighbor", "The nurse", "The old man")
_PLURAL = ("The children", "My parents", "The students", "We", "They", "The neighbors", "You", "I")
_OFTEN = ("", "", " every day", " on Mondays", " in the evening", " at home", " after school", " again")


def _verb(rng: Random) -> tuple[str, ...]:
    return rng.choice(_VERBS)


@task("to_past_tense", "grammar", """
    Put the sentence into the past tense.
    Past tense please.
    Rewrite in the simple past.
    She opens the door becomes She opened the door.
    Please change the sentence so that it happened in the past.
    How would you say this about yesterday, in the simple past?
    past pls
    Change present to past.
    The story should be told in the past; rewrite the sentence.
    Turn the verb into its past form and keep the rest.
    """)  # fmt: skip
def _(rng: Random):
    base, third, past, _, _, thing = _verb(rng)
    if rng.random() < 0.5:
        subject, verb = rng.choice(_THIRD), third
    else:
        subject, verb = rng.choice(_PLURAL), base
    return f"{subject} {verb} {thing}.", f"{subject} {past} {thing}."


@task("to_future", "grammar", """
    Put the sentence into the future with "will".
    Future tense please.
    Rewrite with will.
    She opens the door becomes She will open the door.
    Please change the sentence so that it is about the future, using will.
    How would you say this about tomorrow, with will?
    future pls
    It has not happened yet: rewrite the sentence with will.
    Make a prediction with will out of the sentence.
    Turn the present into the will-future.
    """, "exam")  # fmt: skip
def _(rng: Random):
    base, third, _, _, _, thing = _verb(rng)
    subject, verb = (rng.choice(_THIRD), third) if rng.random() < 0.5 else (rng.choice(_PLURAL), base)
    often = rng.choice(_OFTEN)
    return f"{subject} {verb} {thing}{often}.", f"{subject} will {base} {thing}{often}."


@task("to_continuous", "grammar", """
    Say that it is happening right now: use is ...ing.
    She opens the door becomes She is opening the door.
    Present continuous please.
    Rewrite with is and the ing-form.
    Please put the sentence in the progressive form.
    It is going on at this moment. Change the sentence accordingly.
    ing-form pls
    Use the present progressive.
    Turn the simple present into is doing.
    How do you say it while it is happening?
    """)  # fmt: skip
def _(rng: Random):
    _, third, _, _, ing, thing = _verb(rng)
    subject = rng.choice(_THIRD)
    return f"{subject} {third} {thing}.", f"{subject} is {ing} {thing}."


@task("to_third_person", "grammar", """
    Change "I" to "she" and fit the verb.
    I open the door becomes She opens the door.
    First person to third person (she).
    Rewrite the sentence about her instead of me.
    Please tell the same thing about a woman, with she.
    Not I but she: rewrite.
    she instead of I pls
    Report what the speaker does, calling her she.
    Turn the I-sentence into a she-sentence.
    Say it about your sister, starting with She.
    """, "validation")  # fmt: skip
def _(rng: Random):
    base, third, _, _, _, thing = _verb(rng)
    often = rng.choice(_OFTEN)
    return f"I {base} {thing}{often}.", f"She {third} {thing}{often}."


@task("to_passive", "grammar", """
    Put the sentence into the passive.
    Tom opened the window becomes The window was opened by Tom.
    Passive voice please.
    Rewrite so that the object comes first, with was ... by.
    Please turn the active sentence into a passive one.
    Say what was done, then by whom.
    passive pls
    Change the voice from active to passive.
    Begin with the thing and end with "by" and the person.
    How is that in the passive?
    """)  # fmt: skip
def _(rng: Random):
    _, _, past, participle, _, thing = _verb(rng)
    subject = rng.choice((*MALE, *FEMALE))
    was = "were" if thing == "the boxes" else "was"
    return f"{subject} {past} {thing}.", f"{proper(thing, '')} {was} {participle} by {subject}."


@task("to_active", "grammar", """
    Put the sentence into the active voice.
    The window was opened by Tom becomes Tom opened the window.
    Active voice please.
    Start with the person who did it.
    Please turn the passive sentence into an active one.
    Say who did what, without "by".
    active pls
    Change the voice from passive to active.
    Let the doer come first.
    How is that without the passive?
    """, "exam")  # fmt: skip
def _(rng: Random):
    _, _, past, participle, _, thing = _verb(rng)
    subject = rng.choice((*MALE, *FEMALE))
    was = "were" if thing == "the boxes" else "was"
    return f"{proper(thing, '')} {was} {participle} by {subject}.", f"{subject} {past} {thing}."


@task("negate", "grammar", """
    Negate the sentence.
    Say the opposite with "does not".
    Tom opens the door becomes Tom does not open the door.
    Put a not into the sentence.
    Please make the sentence negative, with does not.
    It is not true. Rewrite the sentence with does not.
    negative form pls
    Deny the statement.
    Turn the claim into its negation.
    How do you say that this does not happen?
    """)  # fmt: skip
def _(rng: Random):
    base, third, _, _, _, thing = _verb(rng)
    subject, often = rng.choice(_THIRD), rng.choice(_OFTEN[:5])
    return f"{subject} {third} {thing}{often}.", f"{subject} does not {base} {thing}{often}."


@task("statement_to_question", "grammar", """
    Turn the sentence into a yes/no question.
    Make it a question.
    Tom opens the door becomes Does Tom open the door?
    Ask whether it is so.
    Please form the question that this sentence answers with yes.
    as a question pls
    Rewrite the statement as a question with does.
    You are not sure about it. Ask!
    Form a question from the statement.
    How would you ask that?
    """)  # fmt: skip
def _(rng: Random):
    base, third, _, _, _, thing = _verb(rng)
    subject, often = rng.choice(_THIRD), rng.choice(_OFTEN[:5])
    asked = subject if subject in MALE or subject in FEMALE else subject[:1].lower() + subject[1:]
    return f"{subject} {third} {thing}{often}.", f"Does {asked} {base} {thing}{often}?"


@task("question_to_statement", "grammar", """
    Turn the question into a statement.
    Does Tom open the door? becomes Tom opens the door.
    Make it a statement.
    Say it instead of asking.
    Please rewrite the question as a plain sentence.
    The answer is yes. Write the whole sentence.
    as a statement pls
    Remove the question: state the fact.
    Form the sentence that answers the question with yes, in full, without "yes".
    Declare what is asked.
    """, "validation")  # fmt: skip
def _(rng: Random):
    base, third, _, _, _, thing = _verb(rng)
    subject, often = rng.choice((*MALE, *FEMALE)), rng.choice(_OFTEN[:5])
    return f"Does {subject} {base} {thing}{often}?", f"{subject} {third} {thing}{often}."


@task("make_polite", "tone", """
    Make the command polite: start with "Could you please".
    Open the door! becomes Could you please open the door?
    Say it more politely.
    Rewrite the order as a polite request with could you please.
    Please turn the command into a friendly question.
    be nicer pls
    My boss is too rude; rewrite what he says politely.
    Use "Could you please ...?" instead of the order.
    How would a polite person ask for that?
    Soften the command.
    """)  # fmt: skip
def _(rng: Random):
    base, _, _, _, _, thing = _verb(rng)
    often = rng.choice(("", " now", " today", " at once"))
    return f"{proper(base, '')} {thing}{often}!", f"Could you please {base} {thing}{often}?"


@task("make_command", "tone", """
    Make a short command out of the polite request.
    Could you please open the door? becomes Open the door!
    Less polite, please: as an order.
    Rewrite the request as a command with an exclamation mark.
    Please turn the question into an order.
    Drop the manners and just command.
    order pls
    How would a sergeant say it?
    Use the imperative and an exclamation mark.
    Strip the politeness.
    """, "exam")  # fmt: skip
def _(rng: Random):
    base, _, _, _, _, thing = _verb(rng)
    start = rng.choice(
        (
            "Could you please",
            "Would you kindly",
            "Would you mind if I asked you to",
            "Can you please",
            "I would be glad if you could",
        )
    )
    return f"{start} {base} {thing}{'.' if start.startswith('I would') else '?'}", f"{proper(base, '')} {thing}!"


_CONTRACTIONS = rows(
    "do not=don't; does not=doesn't; did not=didn't; is not=isn't; are not=aren't; was not=wasn't; cannot=can't; "
    "will not=won't; would not=wouldn't; should not=shouldn't; could not=couldn't; has not=hasn't; have not=haven't"
)
_PATTERNS = {
    "do not": "I {x} know the answer.", "does not": "She {x} like cheese.", "did not": "They {x} see the train.",
    "is not": "The door {x} open.", "are not": "We {x} ready yet.", "was not": "He {x} at home.", "cannot": "I {x} find my keys.",
    "will not": "It {x} rain today.", "would not": "You {x} believe it.", "should not": "You {x} eat so fast.",
    "could not": "We {x} hear the music.", "has not": "The bus {x} arrived.", "have not": "I {x} read the book.",
}  # fmt: skip
_TAILS = (
    "",
    " My brother told me so.",
    " That is a pity.",
    " Please wait.",
    " What a day.",
    " I am sorry.",
    " Ask Anna.",
    " Nobody cares.",
)


@task("expand_contractions", "tone", """
    Write the contraction in full.
    don't becomes do not. Do the same.
    No short forms, please.
    Expand can't, won't and the like.
    Please make the sentence more formal by writing out the contractions.
    full forms pls
    Replace the apostrophe form by the two words.
    For the formal letter, spell out the shortened words.
    Rewrite without contractions.
    How is the sentence written without the apostrophe?
    """)  # fmt: skip
def _(rng: Random):
    full, short = rng.choice(_CONTRACTIONS)
    text, tail = _PATTERNS[full], rng.choice(_TAILS)
    return text.format(x=short) + tail, text.format(x=full) + tail


@task("use_contractions", "tone", """
    Use the contraction, as in spoken English.
    do not becomes don't. Do the same.
    Short forms, please.
    Shorten "not" with an apostrophe.
    Please make the sentence more casual with a contraction.
    short form pls
    How do people say this when they talk?
    Contract the words where one can.
    Rewrite with an apostrophe.
    It sounds stiff. Use n't.
    """, "exam")  # fmt: skip
def _(rng: Random):
    full, short = rng.choice(_CONTRACTIONS)
    text, tail = _PATTERNS[full], rng.choice(_TAILS)
    return text.format(x=full) + tail, text.format(x=short) + tail


_FORMAL = rows(
    "Hey=Dear Sir or Madam; Thanks a lot=Thank you very much; See you=I look forward to meeting you; Sorry=I apologize; "
    "Bye=Kind regards; I want=I would like; gonna=going to; kids=children; get=receive; ask for=request; buy=purchase; "
    "help=assist; need=require; tell=inform; start=commence; end=conclude; show=demonstrate; try=attempt; keep=retain; "
    "let=permit; say sorry=apologize; find out=determine; go up=increase; go down=decrease; set up=establish; "
    "put off=postpone; look into=investigate; talk about=discuss; think about=consider; fix=repair; live=reside; "
    "use=utilize; enough=sufficient; about=approximately; but=however; so=therefore; also=furthermore"
)


@task("formal_word", "tone", """
    Give a more formal word.
    formal version
    How do you say this in formal English?
    Replace the everyday word by a formal one.
    Please make it sound official.
    buy becomes purchase. And this?
    For a business letter, what would one write instead?
    posh word pls
    Which formal expression has the same meaning?
    The casual word is out of place; give the formal one.
    """)  # fmt: skip
def _(rng: Random):
    return rng.choice(_FORMAL)


table("casual_word", "tone", """
    Give a simpler, everyday word.
    simple word pls
    How do normal people say this?
    Replace the formal word by an easy one.
    purchase becomes buy. And this?
    Please use plain English.
    Which common word means the same?
    Too fancy. Say it simply.
    A child should understand it: which word do you use?
    What is the casual word for it?
    """, {formal: casual for casual, formal in rows(
    "buy=purchase; help=assist; need=require; tell=inform; start=commence; end=terminate; show=demonstrate; try=attempt; keep=retain; "
    "let=permit; fix=repair; live=reside; use=utilize; enough=sufficient; ask=inquire; get=obtain; give=provide; go=proceed; "
    "think=contemplate; big=substantial; many=numerous; build=construct; hurry=expedite; hide=conceal; choose=select; change=modify; seem=appear; send=dispatch; speed up=accelerate; happy=delighted; hard=challenging; house=residence; job=occupation; car=vehicle; doctor=physician; drink=beverage; clothes=garments"
)}, "validation")  # fmt: skip

table("expand_abbreviation", "spelling", """
    What does the abbreviation mean? Write it in full.
    Spell out the short form.
    ASAP is as soon as possible. And this?
    full form pls
    Please write the chat abbreviation in whole words.
    My grandma got this in a text message. What does it stand for?
    Expand the acronym.
    Which words are meant by these letters?
    Decode the abbreviation, in lower case.
    Write out the letters' meaning.
    """, dict(rows(
    "ASAP=as soon as possible; FYI=for your information; BTW=by the way; FAQ=frequently asked questions; DIY=do it yourself; "
    "IMO=in my opinion; LOL=laughing out loud; OMG=oh my god; TBA=to be announced; RSVP=please reply; ETA=estimated time of arrival; "
    "PIN=personal identification number; CEO=chief executive officer; ATM=automated teller machine; BRB=be right back; "
    "IDK=I don't know; TBD=to be decided; VIP=very important person; GPS=global positioning system; PC=personal computer; "
    "TV=television; UN=united nations; EU=european union; USA=united states of america; UK=united kingdom; AI=artificial intelligence; "
    "PDF=portable document format; URL=uniform resource locator; DJ=disc jockey; HR=human resources; PR=public relations; IT=information technology; e.g.=for example; i.e.=that is; etc.=and so on; vs.=versus; approx.=approximately; dept.=department; Dr.=doctor; St.=street"
)))  # fmt: skip

table("slang_to_standard", "tone", """
    Write the slang in standard English.
    gonna becomes going to. And this?
    proper English pls
    How is this written correctly?
    Please replace the sloppy form by the standard one.
    Standard spelling of the slang.
    The teacher does not accept this form; which one is right?
    Turn casual spelling into correct spelling.
    What is meant by it in proper words?
    Clean up the slang word.
    """, dict(rows(
    "gonna=going to; wanna=want to; gotta=got to; kinda=kind of; sorta=sort of; lemme=let me; gimme=give me; dunno=don't know; "
    "ain't=is not; y'all=you all; cuz=because; thx=thanks; pls=please; u=you; r=are; ur=your; gr8=great; b4=before; l8r=later; "
    "2day=today; tmrw=tomorrow; nite=night; luv=love; ppl=people; msg=message; info=information; bro=brother; sis=sister; yep=yes; nope=no"
)), "exam")  # fmt: skip

_BRITISH = rows(
    "colour=color; flavour=flavor; honour=honor; favourite=favorite; neighbour=neighbor; labour=labor; rumour=rumor; "
    "harbour=harbor; humour=humor; centre=center; theatre=theater; metre=meter; litre=liter; fibre=fiber; organise=organize; "
    "realise=realize; recognise=recognize; apologise=apologize; analyse=analyze; travelling=traveling; cancelled=canceled; "
    "jewellery=jewelry; grey=gray; tyre=tire; cheque=check; defence=defense; licence=license; catalogue=catalog; dialogue=dialog; "
    "programme=program; plough=plow; aeroplane=airplane; pyjamas=pajamas; mould=mold; storey=story; sceptical=skeptical; moustache=mustache; enrol=enroll; fulfil=fulfill; skilful=skillful"
)  # fmt: skip
table("british_to_american", "spelling", """
    Change the British spelling to American spelling.
    colour becomes color. And this word?
    US spelling pls
    How do Americans spell it?
    Please give the American form of the word.
    The text is for readers in New York. Respell the word.
    British to American.
    Write the word the way it is spelled in the United States.
    Which spelling would an American use?
    Americanize the spelling.
    """, dict(_BRITISH))  # fmt: skip


_TYPOS = words(
    "because friend receive believe beautiful tomorrow definitely separate different necessary library restaurant "
    "important interesting question answer morning evening weather kitchen hospital together language mountain "
    "chocolate vegetable business address calendar neighbor holiday science history picture through children birthday "
    "tonight breakfast computer knowledge surprise favorite dinner people water garden village"
)  # fmt: skip


def misspelled(rng: Random, word: str) -> str:
    """The word with two inner letters swapped, one lost or one doubled."""
    while True:
        place = rng.randint(1, len(word) - 3)
        wrong = rng.choice((
            word[:place] + word[place + 1] + word[place] + word[place + 2 :],
            word[:place] + word[place + 1 :],
            word[:place] + word[place] + word[place:],
        ))  # fmt: skip
        if wrong != word:
            return wrong


@task("fix_spelling", "spelling", """
    Correct the spelling of the word.
    Fix the typo.
    spell it right pls
    How is this word spelled correctly?
    Please write the misspelled word without the mistake.
    There is a typing error in the word. Return the right word.
    Spell-check this.
    Which word did they mean? Write it correctly.
    Repair the spelling.
    corect the word
    """)  # fmt: skip
def _(rng: Random):
    word = rng.choice(_TYPOS)
    return misspelled(rng, word), word


@task("fix_sentence_spelling", "spelling", """
    Correct the spelling mistake in the sentence.
    One word is misspelled. Write the sentence correctly.
    Fix the typo and leave the rest.
    Please proofread this sentence.
    sentence without the typo pls
    There is an error in it. Give the corrected sentence.
    Copy the sentence, but spell every word right.
    Spell-check the line.
    What should the sentence look like?
    Rewrite it with correct spelling.
    """)  # fmt: skip
def _(rng: Random):
    parts = sentence(rng).split()
    longest = max(parts, key=len)
    wrong = [misspelled(rng, part) if part is longest else part for part in parts]
    return proper(" ".join(wrong)), proper(" ".join(parts))


@task("find_typo", "spelling", """
    Which word is misspelled? Copy it as it is.
    Find the word with the typo.
    typo?
    One word of the sentence is wrong. Return that wrong word.
    Please point out the misspelled word.
    Where is the spelling mistake? Give the word.
    Spot the error: write the faulty word.
    Return the word that is not spelled right, unchanged.
    the wrong word pls
    Which word should be corrected?
    """)  # fmt: skip
def _(rng: Random):
    parts = sentence(rng).split()
    longest = max(parts, key=len)
    wrong = misspelled(rng, longest)
    return proper(" ".join(wrong if part is longest else part for part in parts)), wrong


@task("is_spelled_right", "spelling", """
    Is the word spelled correctly? Answer right or wrong.
    right or wrong spelling?
    Say right if there is no mistake in the word, wrong if there is.
    Please check the spelling: right or wrong.
    Spelling test. Mark the word right or wrong.
    Does a dictionary have this spelling (right) or not (wrong)?
    Is there a typo? If yes answer wrong, if no answer right.
    spelling ok? right/wrong
    Grade the word with right or wrong.
    Tell correct words (right) from misspelled ones (wrong).
    """, "exam")  # fmt: skip
def _(rng: Random):
    word = rng.choice(_TYPOS)
    return (word, "right") if rng.random() < 0.5 else (misspelled(rng, word), "wrong")


@task("a_or_an", "spelling", """
    Put "a" or "an" before the word.
    a or an?
    Write the word with the right article, a or an.
    apple becomes an apple. Do the same.
    Please add the indefinite article.
    Which article goes with it? Give article and word.
    a/an + word pls
    Say it with a or an in front.
    Complete: I see ___ . Use a or an with the noun.
    Add the correct small word, a or an, before the noun.
    """)  # fmt: skip
def _(rng: Random):
    word = rng.choice(
        (
            *NOUNS,
            "apple",
            "egg",
            "orange",
            "umbrella",
            "ant",
            "elephant",
            "onion",
            "oven",
            "idea",
            "uncle",
            "ice cream",
            "office",
            "artist",
            "eagle",
            "actor",
            "email",
            "owl",
            "island",
            "insect",
            "olive",
        )
    )
    if word == "money" or word == "music" or word == "paper":
        word = "picture"
    return word, f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


@task("capitalize_sentence", "spelling", """
    Add the capital letter and the period.
    Make it a proper sentence: capital at the start, full stop at the end.
    Capital and dot pls
    Please write this with correct capitalization and punctuation.
    Start with a capital letter and finish with a period.
    The text was typed in a hurry. Give it a capital and a full stop.
    Turn the raw words into a correct sentence.
    First letter big, period at the end.
    Fix the beginning and the end of the sentence.
    Format as a sentence.
    """)  # fmt: skip
def _(rng: Random):
    text = sentence(rng)
    return text, proper(text)


@task("add_end_mark", "spelling", """
    Add the missing mark at the end: . or ?
    Question mark or period? Write the text with it.
    Finish the sentence with the right mark.
    Please put a question mark after questions and a period after statements.
    punctuation pls
    The last character is missing. Add ? or .
    Does it end in a period or a question mark? Write it out.
    Complete the punctuation at the end.
    Copy the text and close it properly.
    Add the end mark.
    """)  # fmt: skip
def _(rng: Random):
    base, third, past, _, _, thing = _verb(rng)
    name = rng.choice((*MALE, *FEMALE))
    if rng.random() < 0.5:
        text = rng.choice(
            (
                f"Does {name} {base} {thing}",
                f"Why did {name} {base} {thing}",
                f"When will {name} {base} {thing}",
                f"Who can {base} {thing}",
            )
        )
        return text, f"{text}?"
    text = rng.choice((f"{name} {third} {thing}", f"{name} {past} {thing}", f"I think {name} will {base} {thing}"))
    return text, f"{text}."


@task("remove_punctuation", "spelling", """
    Remove all punctuation.
    Take out commas, periods and other marks.
    no punctuation pls
    Write the text without punctuation marks.
    Please delete every comma, dot and exclamation mark.
    Only words and spaces should remain.
    Strip the punctuation.
    Give me the words without any marks.
    What is left when the marks are gone?
    Clean the text of punctuation.
    """)  # fmt: skip
def _(rng: Random):
    first, second = sentence(rng).split(), sentence(rng, most=6).split()
    start = rng.choice(("well", "yes", "no", "oh", "look", "sorry"))
    return (
        f"{start.capitalize()}, {' '.join(first)}{rng.choice('.!?')} {proper(' '.join(second), rng.choice(('.', '!', '?')))}",
        f"{start.capitalize()} {' '.join(first)} {proper(' '.join(second), '')}",
    )


@task("lowercase_text", "spelling", """
    Write the text in lower case.
    lowercase
    No capitals: rewrite the text in small letters.
    Please turn all capital letters into small ones.
    Stop shouting; write it in lower case.
    THIS becomes this.
    small letters pls
    How does the text look without any capital letter?
    Convert to lower case.
    Change upper-case letters to lower-case.
    """)  # fmt: skip
def _(rng: Random):
    text = sentence(rng)
    return rng.choice((text.upper(), text.title())), text.lower()


@task("uppercase_text", "spelling", """
    Write the text in capital letters.
    uppercase
    ALL CAPS version of the text.
    Please turn all letters into capitals.
    Shout it: rewrite in upper case.
    this becomes THIS.
    capitals pls
    How does the text look in capitals?
    Convert to upper case.
    Make every letter of the text a big one.
    """)  # fmt: skip
def _(rng: Random):
    text = rng.choice((sentence(rng), rng.choice(NOUNS), " ".join(rng.sample(NOUNS, 2))))
    return text, text.upper()


@task("title_case_text", "spelling", """
    Capitalize every word of the phrase.
    Title Case please.
    the red house becomes The Red House.
    Every word gets a capital at its start.
    Please write the phrase like a headline, all words capitalized.
    Format as a title: first letter of each word big.
    Give each word an initial capital.
    caps at word starts pls
    Convert to title case.
    Begin all words with upper case.
    """)  # fmt: skip
def _(rng: Random):
    text = rng.choice((sentence(rng), " ".join(rng.sample(NOUNS, 3))))
    return text, text.title()


@task("no_spaces_to_words", "spelling", """
    Put the missing space between the two words.
    Separate the words.
    redhouse becomes red house.
    Please split the run-together words.
    The space bar was broken. Add the space.
    two words pls
    Where does the second word begin? Write both with a space.
    Break the string into its two words.
    Insert a blank in the right place.
    Read it and write it as two words.
    """, "exam")  # fmt: skip
def _(rng: Random):
    first = rng.choice(
        words(
            "red old new big small cold warm dark clean happy blue green white black long short slow fast funny empty"
        )
    )
    second = rng.choice(NOUNS)
    return first + second, f"{first} {second}"


@task("unscramble", "spelling", """
    Unscramble the letters to a word.
    Which word is hidden in the mixed letters?
    anagram: find the word
    The letters are in the wrong order. Write the word.
    Please put the letters back in order.
    Solve the letter puzzle.
    What word can be made of all these letters?
    Sort the letters into a real word.
    unscramble pls
    Restore the word from its jumbled letters.
    """)  # fmt: skip
def _(rng: Random):
    word = rng.choice([noun for noun in NOUNS if len(noun) <= 6])
    while True:
        letters = "".join(rng.sample(word, len(word)))
        if letters != word:
            return letters, word


@task("missing_letter", "spelling", """
    Which word is it? Fill in the missing letter.
    Replace the _ by the right letter and write the word.
    app_e is apple. And this?
    complete the word pls
    Please write the whole word with its missing letter.
    One letter is hidden. Give the complete word.
    Hangman: what is the word?
    Put in the lost letter.
    Guess the word with the gap.
    What word has this pattern?
    """, "exam")  # fmt: skip
def _(rng: Random):
    word = rng.choice((*NOUNS, *_TYPOS))
    place = rng.randint(1, len(word) - 1)
    return f"{word[:place]}_{word[place + 1 :]}", word


@task("join_with_because", "grammar", """
    Join the two sentences with "because".
    I am tired. I slept badly. becomes I am tired because I slept badly.
    One sentence with because, please.
    Connect effect and cause by because.
    Please combine both sentences, using because.
    because pls
    Link the sentences with the word because.
    Make one sentence out of two; the second is the reason.
    Put because between the sentences.
    Write it as a single sentence with a reason.
    """)  # fmt: skip
def _(rng: Random):
    effect, cause = (
        rng.choice(
            (
                "I was late",
                "I was tired",
                "I stayed home",
                "I laughed",
                "I was sad",
                "I called you",
                "I left early",
                "I was angry",
            )
        ),
        sentence(rng),
    )
    return f"{effect}. {proper(cause)}", f"{effect} because {cause}."


@task("join_with_but", "grammar", """
    Join the two sentences with ", but".
    One sentence with but, please.
    Combine the sentences, using a comma and but.
    I called. He left. becomes I called, but he left.
    Please link both sentences with but.
    Connect the contrast with the word but.
    Make one sentence out of two with but between them.
    but pls
    Put ", but" between the sentences.
    Write it as a single sentence with but.
    """, "exam")  # fmt: skip
def _(rng: Random):
    first, second = (
        rng.sample(
            (
                "I called",
                "I waited",
                "I was tired",
                "It was late",
                "It rained",
                "I was hungry",
                "The shop was open",
                "The bus came",
            ),
            1,
        )[0],
        sentence(rng),
    )
    return f"{first}. {proper(second)}", f"{first}, but {second}."


@task("split_sentences", "grammar", """
    Write each sentence on its own line.
    One sentence per line.
    Split the text into lines by sentence.
    Please start a new line after every period.
    Line break after each sentence pls
    Put every sentence below the other.
    Break the paragraph up, sentence by sentence.
    Separate the sentences by line breaks.
    Each sentence gets a line.
    Turn the paragraph into lines.
    """, "validation")  # fmt: skip
def _(rng: Random):
    texts = [proper(sentence(rng)) for _ in range(rng.randint(2, 3))]
    return " ".join(texts), "\n".join(texts)


@task("count_sentences", "grammar", """
    How many sentences are there?
    Count the sentences.
    sentences?
    Number of sentences, please.
    Please tell me how many sentences the text has.
    Of how many sentences is the text made?
    Give the number of full stops that end a sentence.
    A digit: how many sentences?
    count sentences pls
    Determine the number of sentences.
    """)  # fmt: skip
def _(rng: Random):
    texts = [proper(sentence(rng, most=7)) for _ in range(rng.randint(1, 5))]
    return " ".join(texts), str(len(texts))


@task("last_sentence", "grammar", """
    Copy the last sentence.
    Give only the final sentence.
    last sentence pls
    Return the sentence that ends the text.
    Please write down the closing sentence.
    What is the last sentence?
    Leave out everything but the last sentence.
    Keep the final sentence, drop the others.
    The sentence at the end, please.
    How does the text end? Quote the sentence.
    """)  # fmt: skip
def _(rng: Random):
    texts = [proper(sentence(rng)) for _ in range(rng.randint(2, 4))]
    return " ".join(texts), texts[-1]


@task("first_sentence", "grammar", """
    Copy the first sentence.
    Give only the opening sentence.
    first sentence pls
    Return the sentence that begins the text.
    Please write down the first sentence.
    What is the first sentence?
    Leave out everything but the first sentence.
    Keep the opening sentence, drop the others.
    The sentence at the start, please.
    How does the text begin? Quote the sentence.
    """)  # fmt: skip
def _(rng: Random):
    texts = [proper(sentence(rng)) for _ in range(rng.randint(2, 4))]
    return " ".join(texts), texts[0]


@task("replace_name_by_pronoun", "grammar", """
    Replace the name by he or she.
    Tom opened the door becomes He opened the door.
    Pronoun instead of the name.
    Use he for men and she for women.
    Please write the sentence with a pronoun in place of the name.
    No names: he or she.
    he/she pls
    Rewrite without saying who it is by name.
    Put the right pronoun at the beginning.
    Swap the name for he or she.
    """)  # fmt: skip
def _(rng: Random):
    _, _, past, _, _, thing = _verb(rng)
    male = rng.random() < 0.5
    name = rng.choice(MALE if male else FEMALE)
    return f"{name} {past} {thing}.", f"{'He' if male else 'She'} {past} {thing}."


@task("find_verb", "grammar", """
    What is the verb of the sentence?
    Find the verb.
    verb?
    Which word says what is done?
    Please copy the verb from this sentence.
    Underline the verb: which word is it?
    Return the action word.
    The doing word, please.
    Pick out the verb, in the form in which it stands.
    verb of the sentence pls
    """)  # fmt: skip
def _(rng: Random):
    _, third, past, _, _, thing = _verb(rng)
    verb = rng.choice((third, past))
    return f"{rng.choice(_THIRD)} {verb} {thing}{rng.choice(_OFTEN)}.", verb


@task("find_subject", "grammar", """
    Who does it? Copy the subject of the sentence.
    Find the subject.
    subject?
    Who or what is acting in the sentence?
    Please copy the subject as it stands.
    Return the part before the verb.
    Name the doer.
    Who is the sentence about?
    subject pls, with its article if it has one
    Pick out the subject of the sentence.
    """)  # fmt: skip
def _(rng: Random):
    _, third, past, _, _, thing = _verb(rng)
    subject = rng.choice(_THIRD)
    return f"{subject} {rng.choice((third, past))} {thing}{rng.choice(_OFTEN)}.", subject


@task("remove_adverb", "grammar", """
    Remove the filler words um, uh and like.
    Clean up the transcript: no um, no uh.
    no fillers pls
    Delete the hesitations and keep the rest.
    Please take the ums and uhs out of the sentence.
    Write what the speaker wanted to say, without um and uh.
    The transcript has filler words. Drop them.
    Make it fluent by removing um and uh.
    Strip um, uh from the line.
    How does it read without the ums?
    """)  # fmt: skip
def _(rng: Random):
    parts = sentence(rng).split()
    noisy = list(parts)
    for _ in range(rng.randint(1, 3)):
        noisy.insert(rng.randint(1, len(noisy)), rng.choice(("um", "uh", "um,", "uh,")))
    return " ".join(noisy), " ".join(parts)


@task("blank_name", "grammar", """
    Replace the person's name by X.
    Hide the name: write X instead.
    Make it anonymous with X.
    Tom opened the door becomes X opened the door.
    Please put X wherever the name stands.
    no names pls, X instead
    For privacy, change the name to X.
    Rewrite with X in place of the person.
    Mask the name as X.
    The reader must not know who it is: use X.
    """)  # fmt: skip
def _(rng: Random):
    _, _, past, _, _, thing = _verb(rng)
    name = rng.choice((*MALE, *FEMALE))
    text = rng.choice(
        (
            "{n} {p} {t}.",
            "Yesterday {n} {p} {t}.",
            "I saw that {n} {p} {t}.",
            "My friend {n} {p} {t}.",
            "It was {n} who {p} {t}.",
        )
    )
    return text.format(n=name, p=past, t=thing), text.format(n="X", p=past, t=thing)
