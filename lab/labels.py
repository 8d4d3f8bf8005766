"""Renames the labels of a classification task, in its answers and in the words that describe it.

A description keeps its sense or is refused: labels are replaced as whole words, words that are also ordinary
English ("a", "no", "for") only where they stand as labels, and no renamed description names an old label. The other
form leaves a description as it is and adds a sentence that maps every label to its new name. This file knows texts; it
reads and writes no files (`lab.variants`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random

from lab.content import COMMON_WORDS, listed, words
from t2l.data.sources import Task

MIN_LABELS, MAX_LABELS = 2, 8
MAX_LABEL_CHARS = 40


_SWITCHES = (
    "yes/no", "true/false", "1/0", "y/n", "agree/disagree", "right/wrong", "correct/incorrect", "accept/reject",
    "pass/fail", "on/off", "T/F", "YES/NO", "oui/non", "si/no", "ja/nein", "affirmative/negative", "match/mismatch",
    "confirmed/denied", "indeed/never", "sure/nope", "+/-", "green/red", "thumbs up/thumbs down", "valid/invalid",
    "is so/is not so",
)  # fmt: skip
_BARE_SWITCHES = ({"yes", "no"}, {"true", "false"}, {"1", "0"}, {"y", "n"}, {"t", "f"})
"""Those that say nothing but so or not so; any other switch says the same in their place."""
_VALENCES = (
    "positive/negative", "good/bad", "favorable/unfavorable", "happy/unhappy", "pos/neg", "pleased/displeased",
    "like/dislike", "satisfied/dissatisfied", "up/down", "thumbs up/thumbs down", "recommend/avoid", "plus/minus",
)  # fmt: skip
_SYNONYMS = """
    joy=happiness=delight; anger=rage=fury; sadness=sorrow=grief; fear=terror=fright; surprise=amazement=shock;
    love=affection=fondness; happy=glad=cheerful; sad=unhappy=gloomy; angry=furious=mad;
    neutral=balanced=indifferent; other=something else=none of these; past=before=earlier; present=now=current;
    future=later=upcoming; singular=one=single; plural=many=several; male=man=masculine; female=woman=feminine;
    user=customer=caller; agent=assistant=operator; spam=junk=unwanted; ham=genuine=wanted;
    sarcastic=ironic=mocking; non-sarcastic=sincere=serious; similar=alike=related; not
    similar=different=unrelated; dissimilar=different=unlike; valid=sound=usable; invalid=unsound=unusable;
    toxic=harmful=hurtful; non-toxic=harmless=clean; offensive=rude=insulting; in favor=pro=supporting;
    against=contra=opposing; acceptable=fine=okay; unacceptable=faulty=not okay; cheap=inexpensive=low cost;
    expensive=costly=high cost; moderate=medium=middling; human=person=people; bot=machine=robot;
    funny=amusing=comical; not funny=serious=dull; accepted=approved=taken; rejected=refused=declined;
    vegetarian=meatless=veggie; non vegetarian=with meat=meaty; sweet=sugary=candied; spicy=hot=peppery;
    person=someone=human being; location=place=site; quantity=number=amount; entity=thing=object;
    statement=assertion=declaration; question=query=inquiry; command=order=instruction; formal=official=stiff;
    casual=informal=relaxed; polite=courteous=kind; rude=impolite=unkind; urgent=pressing=rush; calm=relaxed=no
    hurry; even=divisible by two=pair; odd=not divisible by two=uneven; hot=warm=burning; cold=chilly=icy;
    long=lengthy=big; short=brief=small; living=alive=creature; object=thing=item; noun=thing word=naming word;
    verb=action word=doing word; adjective=describing word=quality word; high=top=big; low=bottom=small
    """
_ONSETS, _VOWELS, _CODAS = (
    words("""
        b bl br d dr f fl g gl k kl l m n p pl r s st t tr v w z
    """),
    "aeiou",
    "b d g k l m n p r s t x z",
)
_SERIES = (
    "A B C D E F G H", "1 2 3 4 5 6 7 8", "a b c d e f g h", "I II III IV V VI VII VIII", "X Y Z W V U T S",
    "one two three four five six seven eight", "first second third fourth fifth sixth seventh eighth",
    "L1 L2 L3 L4 L5 L6 L7 L8", "10 20 30 40 50 60 70 80", "class1 class2 class3 class4 class5 class6 class7 class8",
)  # fmt: skip
_NATURAL = ("switch", "valence", "synonym")  # what people would do; more often first
_PHRASES = (
    "It is {0}",
    "The answer is {0}",
    "label: {0}",
    "<{0}>",
    "{0} it is",
    "I say {0}",
    "[{0}]",
    "{0}!",
    "class {0}",
    "#{0}",
    "({0})",
)

_AMBIGUOUS = frozenset(
    words("""
        no for other not in none against first second on off up down good bad right wrong user match left
        like i one two three high low long short present past can will may might is so if or and as
    """)
)
_FORM = re.compile(
    r"\b(?:capital(?:s|ized|ised)?|(?:lower|upper)[- ]?cased?|digits?|numerals?|all caps|"
    r"exact(?:ly)? (?:word|string)s?|(?:one|a single|single) (?:word|letter|digit|character))\b",
    re.IGNORECASE,
)
_QUOTES = "\"'`\u201c\u201d\u2018\u2019*"
_LEADS = (
    "answer|answers|answered|answering|say|says|reply|replies|replying|respond|responding|response|return|returns|output|"
    "outputs|write|writes|indicate|label|labeled|labels|labelled|print|give|gives|mark|choose|pick|select|with|as|either|"
    "or|is|be|option|state|report|get|gets|generate|produce|to|between|mean|means"
)
_TRAILS = r"(?:if|when|where|for|means?|meaning|otherwise|or|and|unless|in case|denotes|indicates|represents|only|to)\b"
_CONDITION = (
    r"[\"'`\u201c\u201d\u2018\u2019.,*)]*\s*(?:=|:|(?:if|when|where|for|means?|meaning|in case|denotes|indicates|"
    r"represents|to (?:mean|show|say|mark)|unless|otherwise)\b)"
)
_OTHERWISE = (
    r"(?:otherwise|else|if not|or else|in all other cases|any other case)[^.;\"'\u201c]{0,30}[\"'`\u201c\u2018*]?"
)
_MAPPED = (
    ("Use the labels {names}: {pairs}.", '"{new}" for {old}'),
    ("Answer with {names}, where {pairs}.", '"{new}" stands for {old}'),
    ("Write {pairs}.", '"{new}" instead of "{old}"'),
    ("The only answers are {names}: {pairs}.", "{new} means {old}"),
    ("Say {pairs}.", '"{new}" if the answer is {old}'),
    ("Labels: {pairs}.", "{old} = {new}"),
    ("Please rename the labels: {pairs}.", "{old} becomes {new}"),
    ("Do not write {olds}. Write {pairs}.", "{new} for {old}"),
    ("We code the answers: {pairs}.", "{old} as {new}"),
    ("Reply {pairs}, nothing else.", "{new} when it is {old}"),
    ("In our system {pairs}, so answer with those words.", '"{old}" is called "{new}"'),
    ("output must be one of {names} ({pairs})", "{new}: {old}"),
    ("Every {pairs} in your answer.", '"{old}" turns into "{new}"'),
    ("For {pairs}.", "{old} print {new}"),
    ("When it is {pairs}.", '{old}, the reply is "{new}"'),
    ("Possible answers: {pairs}.", "{new} ({old})"),
    ("The labels have new names. {pairs}.", "{old} is now {new}"),
    ("Instead of the usual words use {names}; {pairs}.", "{new} replaces {old}"),
    ("pls write {pairs}", "{new} not {old}"),
    ("Choose between {names}. {pairs}.", "{new} is for {old}"),
    ("Code the result: {pairs}.", "{old} -> {new}"),
    ("If you would say {pairs}.", '"{old}", say "{new}"'),
    ("Tag it with {pairs}.", '"{new}" where it is {old}'),
    ("Your vocabulary is {names} and nothing more: {pairs}.", "{old} is written {new}"),
    ("Say it in our words, please: {pairs}.", '"{new}" ({old})'),
)


@dataclass(frozen=True)
class Relabelling:
    """New names for a task's labels.

    Args:
        kind: where the names are from (``synonym``, ``case``, ``series``, ``swap``, ``common``, ``invented``,
            ``switch``, ``phrase``).
        names: old label, as in the answers, without blanks and final stop -> new label.
        keeps_sense: the new names say what the old ones did, so they may replace them wherever these stand.
    """

    kind: str
    names: Mapping[str, str]
    keeps_sense: bool


def label_of(answer: str) -> str:
    """The label that an answer gives: without blanks around it and without a final stop."""
    return answer.strip().removesuffix(".").strip()


def labels_of(task: Task) -> tuple[str, ...] | None:
    """A task's labels, the most frequent first; None where its answers are no small set of short labels.

    Args:
        task: at least twenty instances, two to eight labels, each on at least two instances.
    """
    counts = Counter(label_of(instance.outputs[0]) for instance in task.instances)
    if not MIN_LABELS <= len(counts) <= MAX_LABELS or len(task.instances) < 20:
        return None
    if len({label.casefold() for label in counts}) < len(counts):
        return None
    if any(not label or len(label) > MAX_LABEL_CHARS or number < 2 for label, number in counts.items()):
        return None
    if any(len({label_of(output) for output in instance.outputs}) > 1 for instance in task.instances):
        return None
    return tuple(sorted(counts, key=lambda label: (-counts[label], label)))


def are_options(labels: Sequence[str]) -> bool:
    """Whether the labels only point at options in the input: A, B, C or 1, 2, 3, or "Option 1"."""
    ends = {label.casefold().split()[-1] for label in labels}
    letters = all(len(end) == 1 and end in "abcdefgh" for end in ends)
    numbers = all(end.isdigit() for end in ends) and (len(labels) > 2 or any(" " in label for label in labels))
    words = ends <= {"one", "two", "three", "first", "second", "third"}
    return letters or numbers or words


def relabellings(labels: Sequence[str], rng: Random) -> list[Relabelling]:
    """Different ways to rename the labels, in an order drawn by ``rng``; kinds alternate.

    Args:
        labels: as `labels_of` gives them.
    """
    folded = [label.casefold() for label in labels]
    found: dict[str, list[Relabelling]] = {}

    def add(kind: str, names: Sequence[str], *, keeps_sense: bool = False) -> None:
        if len({name.casefold() for name in names}) == len(labels) and list(names) != list(labels):
            found.setdefault(kind, []).append(Relabelling(kind, dict(zip(labels, names, strict=True)), keeps_sense))

    for pairs, kind in ((_SWITCHES, "switch"), (_VALENCES, "valence")):
        bare = kind == "valence" or set(folded) in _BARE_SWITCHES
        if pair := next((pair for pair in pairs if set(pair.casefold().split("/")) == set(folded)), None):
            first = pair.casefold().split("/")[0]
            for other in pairs:
                yes, no = other.split("/")
                if {yes.casefold(), no.casefold()} != set(folded):
                    add(kind, [yes if label == first else no for label in folded], keeps_sense=bare)
    rows = [row.split("=") for row in " ".join(_SYNONYMS.split()).split("; ")]
    table = {row[0]: row[1:] for row in rows}
    if all(label in table for label in folded):
        for which in range(2):
            add("synonym", [table[label][which] for label in folded], keeps_sense=True)
    if any(label.isalpha() and len(label) > 1 for label in labels):
        for change in (str.upper, str.lower, str.title):
            names = [change(label) for label in labels]
            if sum(name != label for name, label in zip(names, labels, strict=True)) == len(labels):
                found.setdefault("case", []).append(
                    Relabelling("case", dict(zip(labels, names, strict=True)), keeps_sense=True)
                )
    add("swap", [*labels[1:], labels[0]])
    for _ in range(2):
        add("common", rng.sample(COMMON_WORDS, len(labels)))
        add("invented", [_invented(rng) for _ in labels])
        names = rng.choice(_SERIES).split()[: len(labels)]
        rng.shuffle(names)
        add("series", names)
        phrase = rng.choice(_PHRASES)
        add("phrase", [phrase.format(label) for label in labels])
        pairs = rng.sample(COMMON_WORDS, 2 * len(labels))
        add("two words", [f"{first} {second}" for first, second in zip(pairs[::2], pairs[1::2], strict=True)])
        add("upper common", [name.upper() for name in rng.sample(COMMON_WORDS, len(labels))])
    for ways in found.values():
        rng.shuffle(ways)
    kinds = list(found)
    rng.shuffle(kinds)
    kinds.sort(key=lambda kind: kind not in _NATURAL or rng.random() < 0.4)
    rounds = max(len(ways) for ways in found.values())
    return list(
        chain.from_iterable([found[kind][turn] for kind in kinds if turn < len(found[kind])] for turn in range(rounds))
    )


def renamed(text: str, relabelling: Relabelling) -> str | None:
    """The description with every label replaced; None where it does not name them all, or not safely.

    A text whose old labels carry the sense ("positive") takes other names only where it says what each label is for
    ("positive" if ...); names that keep the sense are taken everywhere.
    """
    labels = sorted(relabelling.names, key=len, reverse=True)
    if not relabelling.keeps_sense and not all(_has_condition(text, label) for label in labels):
        return None
    by_fold = {label.casefold(): relabelling.names[label] for label in labels}
    seen: set[str] = set()

    def replace(match: re.Match[str]) -> str:
        label = match.group(0).casefold()
        seen.add(label)
        return f"\0{by_fold[label]}\1"

    if relabelling.keeps_sense and all(_is_plain(label) for label in labels):
        pattern = "|".join(rf"(?<![\w-]){re.escape(label)}(?![\w-])" for label in labels)
        changed = re.sub(pattern, replace, text, flags=re.IGNORECASE)
    else:
        pattern = "|".join(_marked(label, strict=not relabelling.keeps_sense) for label in labels)
        changed = re.sub(pattern, replace, text)
    if seen != set(by_fold) or _is_stale(re.sub("\0[^\1]*\1", "\0", changed), labels):
        return None
    changed = re.sub(r"\b([Aa]) (?=\0[aeiouAEIOU])", r"\1n ", changed)
    changed = re.sub(r"\b([Aa])n (?=\0[^aeiouAEIOU\0])", r"\1 ", changed)
    return changed.replace("\0", "").replace("\1", "")


def mapped(text: str, relabelling: Relabelling, rng: Random) -> str:
    """The description as it is, with a sentence after it that gives every label its new name."""
    frame, pair = rng.choice(_MAPPED)
    items = list(relabelling.names.items())
    rng.shuffle(items)
    pairs = listed([pair.format(old=old, new=new) for old, new in items])
    sentence = frame.format(
        pairs=pairs,
        names=listed([f'"{new}"' for _, new in items]),
        olds=listed([old for old, _ in items], "or"),
    )
    text = text.strip()
    return f"{text}{'' if text[-1:] in '.!?:' else '.'} {sentence}"


def speaks_of_form(text: str) -> bool:
    """Whether a description says how answers are written (in lower case, one digit), which new names may break."""
    return bool(_FORM.search(text))


def names_all(text: str, labels: Sequence[str]) -> bool:
    """Whether a description names every label as a whole word or phrase."""
    return all(re.search(rf"(?<![\w-]){re.escape(label)}(?![\w-])", text, re.IGNORECASE) for label in labels)


def _invented(rng: Random) -> str:
    """A pronounceable word that does not exist, of four to seven letters."""
    syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 2))]
    return "".join(syllables) + rng.choice(_ONSETS)[0] + rng.choice(_VOWELS) + rng.choice(_CODAS.split())


def _is_plain(label: str) -> bool:
    """Whether the label cannot be mistaken for an ordinary word of the description."""
    return len(label) > 2 and label.casefold() not in _AMBIGUOUS and not label.isdigit()


def _marked(label: str, *, strict: bool) -> str:
    """A pattern for a label that stands as a label: in quotes, in capitals as written, or where an answer is named."""
    word = f"(?i:{re.escape(label)})"
    exact = re.escape(label)
    alone = rf"(?<![\w-]){word}(?![\w-])"
    if _is_plain(label) and not strict:
        return alone
    quoted = rf"(?<=[{_QUOTES}]){word}(?=[.,]?[{_QUOTES}])"
    led = word if len(label) > 1 and label.casefold() != "no" else exact
    leads = "|".join(rf"(?<=(?i:\b{lead} )){led}(?=[.,;:)!?]|\s+{_TRAILS}|\s*/|$)" for lead in _LEADS.split("|"))
    slashed = rf"(?<=[/(\[]){word}(?=[/)\],;:])|{alone}(?=/\w)|(?<=\w/){alone}"
    start = rf"(?<![\w-]){exact}(?=\s+{_TRAILS}|\s*[=:])" if label != "A" and label != "I" else r"(?<!.)(?!.)"
    return f"(?:{quoted}|{leads}|{slashed}|{start})"


def _is_stale(rest: str, labels: Sequence[str]) -> bool:
    """Whether what is left of a text still seems to name an old label."""
    for label in labels:
        for match in re.finditer(rf"(?<![\w-]){re.escape(label)}(?![\w-])", rest, re.IGNORECASE):
            text, before, after = match.group(0), rest[: match.start()][-1:], rest[match.end() :][:2]
            word_follows = len(after) == 2 and after[0] == " " and after[1].isalpha()
            ordinary = label.casefold() in _AMBIGUOUS or label.casefold() == "a"
            quoted = before in _QUOTES and before != ""
            if not (ordinary and word_follows and not quoted and (text.islower() or text == "A" or text == "I")):
                return True
    return False


def _has_condition(text: str, label: str) -> bool:
    word = rf"(?<![\w-]){re.escape(label)}"
    return bool(re.search(word + _CONDITION, text, re.IGNORECASE) or re.search(_OTHERWISE + word, text, re.IGNORECASE))
