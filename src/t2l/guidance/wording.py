"""What is vague or contradictory in a description, from its text alone.

Level 5. Rules for English, written by hand; nothing here knows encoders, models or tasks. What a rule finds is advice,
never a reason to refuse.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SENTENCE = re.compile(r"[^.!?\n]+")
_VERBS_TEXT = """
abbreviate add adjust answer append apply arrange assign begin bring build calculate capitalize capitalise
categorize categorise change check choose classify combine compare complete compose compute concatenate condense
continue convert copy correct count cross cut decide decline decode define delete derive describe detect determine
discard divide double drop duplicate echo edit encode end enclose evaluate exchange expand explain express extract
fetch fill filter find fix flip follow format forget generate get give go grab hand hide identify ignore indicate
infer insert invert join judge keep label leave list locate look lowercase make mark mask match merge mirror move
multiply name negate note number omit order output paraphrase parse pick place play pluralize point predict prefix
prepend present print produce provide pull push put quote rank rate read rearrange recall recognize recognise
recommend reduce remove render reorder repeat rephrase replace reply report reproduce respond restate return
reverse rewrite round say score select send separate set shift shorten show shuffle simplify solve sort spell
split square start state strip subtract suggest sum summarize summarise supply surround swap switch tag take tell
throw total transform translate transpose trim turn uppercase use verify work wrap write
"""
_VERBS = frozenset(_VERBS_TEXT.split())
_EMPTY_VERBS_TEXT = """
do follow handle help process solve transform use work go
"""
_EMPTY_VERBS = frozenset(_EMPTY_VERBS_TEXT.split())
_VAGUE = (
    r"\b(do|solve|handle|perform|complete|finish) (the|this|that|my|it|what)\b(?! (sum|equation|problem)\b)",
    r"\bas (needed|appropriate|usual|required)\b",
    r"\b(usual|appropriate|right|correct|good|best|proper) (way|output|answer|thing|result|manner|response)\b",
    r"\bwhat i (want|mean|need)\b",
    r"\byou know\b",
    r"\bthe instructions?\b",
    r"\b(something|somehow|stuff|things?|whatever|etc)\b",
    r"\bhelpful\b",
    r"\b(answer|reply|respond) (correctly|well|accurately|properly)\b",
)
_OUTPUT = re.compile(
    r"\b(output|answer|reply|respond|return|print|write|give|say|as a|as an|in the form|format|followed by|one word|"
    r"(single|one) (word|letter|number|line|sentence)|number|digits?|letters?|words?|sentence|list|json|csv|yes|no|"
    r"true|false|label|name|brackets?|quotes?|capitals?|upper ?case|lower ?case|separated|translation|summary|title|"
    r"date|code)\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(do not|don['’]t|does not|doesn['’]t|never|not|without|avoid|except|unless|no longer|isn['’]t|cannot|can['’]t|"
    r"rather than|instead of)\b",
    re.IGNORECASE,
)
_SEVERAL = re.compile(
    r"(;|\b(then|afterwards|after that|as well as|also|additionally|and then|next|finally|in addition|plus|both)\b)",
    re.IGNORECASE,
)
_OPTIONS = re.compile(
    r"\b(either|one of|choose (from|between)|options?|whether|yes or no|true or false)\b|"
    r"['\"“][^'\"”]{1,30}['\"”],? (or|and) ['\"“]",
    re.IGNORECASE,
)
_OPPOSITES = (
    ("first", "last"),
    ("upper case", "lower case"),
    ("uppercase", "lowercase"),
    ("ascending", "descending"),
    ("short", "long"),
    ("brief", "detailed"),
    ("formal", "casual"),
    ("always", "never"),
    ("smallest", "largest"),
    ("keep", "remove"),
)
_CONTENT_LEAST = 2  # words; below, a description says too little to be understood
_SENTENCES_MOST = 3


@dataclass(frozen=True)
class WordingFinding:
    """Something in a description that a hypernetwork may misread.

    Args:
        kind: ``"no-verb"``, ``"vague"``, ``"no-output-form"``, ``"several-tasks"``, ``"negation"``, ``"options"``,
            ``"contradiction"``, ``"too-short"`` or ``"not-words"``.
        text: the part of the description that it is about; empty where it is about what is missing.
        advice: what to do about it.
    """

    kind: str
    text: str
    advice: str


def findings(description: str) -> list[WordingFinding]:
    """What is vague or contradictory in a description, the gravest first; empty where nothing was found.

    Example:
        >>> [finding.kind for finding in findings("Do the task.")]
        ['vague', 'no-output-form']
        >>> findings("Give the last word in capital letters.")
        []
    """
    text = description.strip()
    words = [word.lower() for word in _WORD.findall(text)]
    checks = (_not_words, _too_short, _no_verb, _vague, _contradiction, _several, _negation, _options, _no_output)
    found = [check(text, words) for check in checks]
    kept = [finding for finding in found if finding is not None]
    if any(finding.kind == "not-words" for finding in kept):
        return [finding for finding in kept if finding.kind == "not-words"]
    return kept


def content_words(text: str) -> set[str]:
    """Its words, lower case, without those that say little: what two wordings of one task may share."""
    return {word.lower() for word in _WORD.findall(text)} - _STOP


_STOP_TEXT = """
a an the of to in on at for from with and or is are be it its this that as by you your me my i please will should
must each every given only just then there so if into task input output answer text
"""
_STOP = frozenset(_STOP_TEXT.split())


def _not_words(text: str, words: list[str]) -> WordingFinding | None:
    letters = sum(character.isalpha() for character in text)
    solid = sum(not character.isspace() for character in text)
    unpronounced = [word for word in words if word.isascii() and len(word) > 2 and not set(word) & set("aeiouy")]
    if not words or letters < 0.5 * solid or 2 * len(unpronounced) >= len(words):
        return WordingFinding("not-words", text[:60], "Say in plain words what should be done with the input.")
    return None


def _too_short(text: str, words: list[str]) -> WordingFinding | None:
    if len(words) < _CONTENT_LEAST:
        return WordingFinding("too-short", text[:60], "One word is rarely a task; say what to do with what.")
    return None


def _no_verb(text: str, words: list[str]) -> WordingFinding | None:
    stems = {stem for word in words for stem in _stems(word)}
    if words and not stems & (_VERBS | _EMPTY_VERBS):
        return WordingFinding(
            "no-verb", "", "Say what to do: begin with a verb, such as give, sort, translate or remove."
        )
    return None


def _vague(text: str, words: list[str]) -> WordingFinding | None:
    for pattern in _VAGUE:
        match = re.search(pattern, text, re.IGNORECASE)
        if match is not None:
            return WordingFinding("vague", match.group(), "It does not say which task is meant; name the task itself.")
    verbs = {stem for word in words for stem in _stems(word)} & _VERBS
    if verbs and verbs <= _EMPTY_VERBS and len(content_words(text)) < 4:
        return WordingFinding(
            "vague", min(verbs), "This verb leaves open what happens to the input; use one that says it."
        )
    return None


def _contradiction(text: str, words: list[str]) -> WordingFinding | None:
    lowered = text.lower()
    for one, other in _OPPOSITES:
        pair = re.search(rf"\b{one}\b[^.]{{0,40}}\b{other}\b|\b{other}\b[^.]{{0,40}}\b{one}\b", lowered)
        joined = pair is not None and re.search(r"\b(and|but|or)\b", pair.group())
        if pair is not None and joined and not re.search(r"\b(swap|exchange|switch|first and last|from)\b", lowered):
            return WordingFinding(
                "contradiction", text[pair.start() : pair.end()], f"'{one}' and '{other}' may pull apart; keep one."
            )
    return None


def _several(text: str, words: list[str]) -> WordingFinding | None:
    sentences = [sentence for sentence in _SENTENCE.findall(text) if sentence.strip()]
    match = _SEVERAL.search(text)
    verbs = [word for word in words if word in _VERBS and word not in ("answer", "output", "list", "number", "point")]
    if match is not None and len(set(verbs)) > 1:
        return WordingFinding(
            "several-tasks", match.group().strip(), "It asks for several things; make an adapter for each."
        )
    if len(sentences) > _SENTENCES_MOST:
        return WordingFinding("several-tasks", "", f"{len(sentences)} sentences; keep to the task, in one or two.")
    return None


def _negation(text: str, words: list[str]) -> WordingFinding | None:
    match = _NEGATION.search(text)
    if match is not None:
        advice = "What is not wanted is easily read as wanted; say what is wanted instead."
        return WordingFinding("negation", match.group(), advice)
    return None


def _options(text: str, words: list[str]) -> WordingFinding | None:
    match = _OPTIONS.search(text)
    if match is not None:
        advice = "The options are part of the task only if every input has the same; check that all are named as meant."
        return WordingFinding("options", match.group(), advice)
    return None


def _no_output(text: str, words: list[str]) -> WordingFinding | None:
    found = _OUTPUT.search(text)
    vague = re.search(r"\b(right|correct|good|best) (output|answer)\b|\banswer correctly\b", text, re.IGNORECASE)
    if found is None or vague is not None:
        return WordingFinding("no-output-form", "", "Say what the answer looks like: one word, a number, a list ...")
    return None


def _stems(word: str) -> set[str]:
    """The word, and what it may be a form of."""
    found = {word}
    for ending, instead in (("s", ""), ("es", ""), ("ies", "y"), ("ed", ""), ("d", ""), ("ing", ""), ("ing", "e")):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            found.add(word[: -len(ending)] + instead)
    for ending in ("ed", "ing"):  # dropped, dropping
        stem = word[: -len(ending)] if word.endswith(ending) else ""
        if len(stem) > 3 and stem[-1] == stem[-2]:
            found.add(stem[:-1])
    return found
