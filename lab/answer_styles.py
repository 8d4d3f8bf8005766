"""Answer styles: what a description may ask of the form of an answer, each in many wordings.

A style is a function on answers and sentences that ask for it; its last sentences are kept for evaluation. This file
knows neither tasks nor files (`lab.variants`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

EVALUATION_WORDINGS = 2  # the last ones of every style


@dataclass(frozen=True)
class AnswerStyle:
    """A way to write an answer down.

    Args:
        name: unique, part of a variant's name.
        apply: the plain answer -> the styled one; None where it does not fit this answer.
        wordings: sentences that ask for it, before or after a description.
    """

    name: str
    apply: Callable[[str], str | None]
    wordings: tuple[str, ...]

    @property
    def training(self) -> tuple[str, ...]:
        """The wordings to train with."""
        return self.wordings[:-EVALUATION_WORDINGS]

    @property
    def evaluation(self) -> tuple[str, ...]:
        """The wordings kept for evaluation."""
        return self.wordings[-EVALUATION_WORDINGS:]


def style(name: str, apply: Callable[[str], str | None], wordings: str) -> AnswerStyle:
    """A style with its wordings, one a line."""
    return AnswerStyle(name, apply, tuple(line.strip() for line in wordings.strip().splitlines()))


def with_letters(change: Callable[[str], str]) -> Callable[[str], str | None]:
    """The change, for answers that hold a letter."""
    return lambda answer: change(answer) if any(letter.isalpha() for letter in answer) else None


def of_words(change: Callable[[list[str]], str], least: int = 2) -> Callable[[str], str | None]:
    """A change of the list of words, for answers of at least so many."""

    def apply(answer: str) -> str | None:
        words = answer.split()
        return change(words) if len(words) >= least else None

    return apply


def one_word(change: Callable[[str], str], longest: int = 12) -> Callable[[str], str | None]:
    """A change of a single word; longer answers do not fit."""

    def apply(answer: str) -> str | None:
        word = answer.strip().removesuffix(".")
        return change(word) if 1 < len(word) <= longest and not word.count(" ") else None

    return apply


def ended(end: str) -> Callable[[str], str | None]:
    """The answer with another end, where it does not have it yet."""
    return lambda answer: None if answer.rstrip()[-1:] in tuple(end) else answer.rstrip(" .") + end


STYLES: tuple[AnswerStyle, ...] = (
    style("upper", with_letters(str.upper), """
        Answer in capital letters.
        Write the answer in upper case.
        Use ALL CAPS for your answer.
        The answer must be written in capitals.
        all caps please
        Only capital letters, please.
        Reply in uppercase.
        Your whole reply has to be in block capitals.
        Give me the result in UPPERCASE letters.
        Shout the answer: every letter a capital.
        No lowercase letters in the output.
        Put your reply in capital letters."""),
    style("lower", with_letters(str.lower), """
        Answer in lower case.
        Use only small letters.
        Write everything in lowercase.
        no capitals pls
        The answer should have no capital letters.
        Reply in lowercase letters only.
        Lowercase the answer.
        Give the result without any capitals.
        Do not use upper case in the answer.
        Keep your whole reply in small letters."""),
    style("title", with_letters(str.title), """
        Start every word of the answer with a capital letter.
        Write the answer in Title Case.
        Use title case.
        Capitalize each word of your answer.
        Title case please.
        The first letter of each word must be a capital.
        Every word of the reply begins with an upper-case letter.
        Format the answer like a book title, Each Word Capitalized.
        Put the result in title case."""),
    style("quotes", lambda answer: f'"{answer}"', """
        Put the answer in double quotes.
        Wrap the answer in quotation marks.
        Answer between double quotes.
        The reply has to stand in "double quotes".
        in quotes pls
        Quote your answer.
        Surround the result with quotation marks.
        Give the answer as a quoted string.
        Enclose what you say in double quotation marks.
        Your answer should be in quotes."""),
    style("single_quotes", lambda answer: f"'{answer}'", """
        Put the answer in single quotes.
        Wrap your answer in single quotation marks.
        Use 'single quotes' around the answer.
        The answer stands between two apostrophes.
        single quotes around it please
        Enclose the result in single quotes.
        Surround your reply with single quotes.
        Write the answer as a single-quoted string.
        Single quotes go around the answer."""),
    style("brackets", lambda answer: f"[{answer}]", """
        Put the answer in square brackets.
        Answer in [brackets].
        Wrap the answer in square brackets.
        The reply must stand between [ and ].
        square brackets around the answer pls
        Enclose your answer in brackets like [this].
        Surround the result with square brackets.
        Write [ first, then the answer, then ].
        Give the answer bracketed.
        Your answer belongs in square brackets."""),
    style("parentheses", lambda answer: f"({answer})", """
        Put the answer in parentheses.
        Answer in round brackets.
        Wrap your answer in (parentheses).
        Write the answer between ( and ).
        parentheses around the answer please
        The reply has to be in round brackets.
        Enclose the result in parentheses.
        Surround what you answer with parentheses.
        Give it in parentheses."""),
    style("braces", lambda answer: "{" + answer + "}", """
        Put the answer in curly braces.
        Answer in {curly brackets}.
        Wrap your answer in curly brackets.
        Write the answer between { and }.
        curly braces around it pls
        The reply must be in curly braces.
        Enclose the result in { }.
        Surround the answer with curly brackets.
        Use curly braces around what you answer."""),
    style("exclaim", ended("!"), """
        End the answer with an exclamation mark.
        Put an exclamation mark after the answer.
        Finish your reply with "!".
        exclamation mark at the end pls
        Answer with excitement: close with an exclamation mark.
        The answer is followed by an exclamation mark.
        Your reply must end in an exclamation point.
        Add an exclamation point to the result.
        Say it with an exclamation mark!
        Close what you write with "!"."""),
    style("question_mark", ended("?"), """
        End the answer with a question mark.
        Put a question mark after the answer.
        Finish your reply with "?".
        Sound unsure: close with a question mark.
        question mark at the end pls
        The answer is followed by a question mark.
        Add a question mark to the result.
        Your reply must end in a question mark.
        Close what you write with "?"."""),
    style("stop", ended("."), """
        End the answer with a full stop.
        Put a period after the answer.
        Finish with a period.
        The answer must end in a full stop.
        dot at the end please
        Close your reply with a full stop.
        Add a period to the result.
        A full stop follows the answer.
        Your answer should finish with a dot."""),
    style("dots", ended("..."), """
        End the answer with three dots.
        Let the answer trail off with ...
        Put an ellipsis after the answer.
        Finish your reply with an ellipsis.
        three dots at the end pls
        The answer is followed by three dots.
        Add an ellipsis to the result.
        Close with "...".
        Your reply should end in three dots."""),
    style("semicolon", ended(";"), """
        End the answer with a semicolon.
        Put a semicolon after the answer.
        Finish your reply with ";".
        The answer is followed by a semicolon.
        semicolon at the end pls
        Add a semicolon to the result.
        Like a line of code, the answer ends in a semicolon.
        Close with a semicolon.
        Your reply must end in ";"."""),
    style("answer_prefix", lambda answer: f"Answer: {answer}", """
        Start with "Answer: ".
        Begin your reply with "Answer:".
        Write "Answer: " and then the answer.
        Put the word Answer and a colon before the answer.
        The reply has the form "Answer: ...".
        prefix it with "Answer: "
        Your output starts with Answer: followed by the answer.
        Use the prefix "Answer: ".
        Every reply opens with "Answer:" and a space.
        Let "Answer: " stand in front of what you answer."""),
    style("result_prefix", lambda answer: f"Result = {answer}", """
        Start with "Result = ".
        Write the reply as Result = ...
        Begin with "Result =", then the answer.
        Put "Result = " before the answer.
        format: Result = answer
        Use the prefix "Result = ".
        The output has the form "Result = ...".
        Assign the answer to Result, as in Result = 5.
        Let "Result = " stand in front of the answer."""),
    style("sure_prefix", lambda answer: f"Sure: {answer}", """
        Start with "Sure: ".
        Begin your reply with "Sure:".
        Say "Sure: " and then the answer.
        Put "Sure: " before the answer.
        first "Sure: ", then the answer
        Be obliging: open with "Sure:".
        Use the prefix "Sure: ".
        The reply has the form "Sure: ...".
        Let "Sure: " stand in front of the answer."""),
    style("final_prefix", lambda answer: f"Final answer: {answer}", """
        Start with "Final answer: ".
        Begin with "Final answer:".
        Write "Final answer: " and then the answer.
        The output has the form "Final answer: ...".
        prefix the reply with "Final answer: "
        Put the words Final answer and a colon in front.
        Use the prefix "Final answer: ".
        Say final answer, a colon, and the answer.
        Open your reply with "Final answer:"."""),
    style("arrow", lambda answer: f"=> {answer}", """
        Start with an arrow: "=> ".
        Put "=>" before the answer.
        Write "=> " and then the answer.
        Begin the reply with =>.
        arrow => in front of the answer pls
        Use "=> " as prefix.
        The output has the form "=> ...".
        Let an arrow => point to the answer.
        An arrow (=>) precedes the answer."""),
    style("hash", lambda answer: f"#{answer}", """
        Put a hash sign before the answer.
        Start the answer with #.
        Write # directly in front of the answer.
        Prefix the answer with a hash.
        # before the answer pls
        Begin with the sign #.
        The answer carries a # at its front.
        Add a number sign (#) before the result.
        Let # stand right before what you answer."""),
    style("bullet", lambda answer: f"- {answer}", """
        Give the answer as a bullet point.
        Write it as a bullet: "- answer".
        Start with a dash and a space.
        Format the reply as a list item with "- ".
        as a bullet point pls
        Put "- " before the answer.
        The answer is one bullet point with a dash.
        Use a markdown bullet.
        Make the answer a list item starting with a dash."""),
    style("star", lambda answer: f"* {answer}", """
        Start with a star and a space.
        Put "* " before the answer.
        Write it as a bullet with a star: "* answer".
        Use an asterisk as bullet.
        star bullet pls
        The reply begins with an asterisk.
        Give the answer as a list item with "* ".
        Mark the answer with a * in front.
        Let an asterisk and a blank precede the answer."""),
    style("numbered", lambda answer: f"1. {answer}", """
        Give the answer as item one of a numbered list.
        Start with "1. ".
        Put "1. " before the answer.
        Number the answer: 1. and then the text.
        as a numbered list with one item pls
        The output has the form "1. ...".
        Write 1, a dot, a space, and the answer.
        Use numbered list format.
        Let "1. " stand in front of the answer."""),
    style("bold", lambda answer: f"**{answer}**", """
        Write the answer in bold (markdown).
        Put two stars on each side of the answer.
        Use markdown bold: **answer**.
        The answer has to be **bold**.
        bold it with ** pls
        Surround the answer with double asterisks.
        Format the reply in bold markdown.
        Enclose the result in ** and **.
        Make it bold, markdown style."""),
    style("xml", lambda answer: f"<answer>{answer}</answer>", """
        Put the answer in <answer> tags.
        Write <answer>...</answer> around the answer.
        Answer in XML with the tag answer.
        Wrap the answer in <answer> and </answer>.
        use answer tags, <answer>like this</answer>
        The reply is an XML element called answer.
        Enclose the result in the tags <answer></answer>.
        Surround your answer with XML tags named answer.
        Format: <answer>your answer</answer>"""),
    style("json_answer", lambda answer: json.dumps({"answer": answer}, ensure_ascii=False), """
        Answer as JSON with the key "answer".
        Give the answer as JSON: {"answer": ...}.
        Return a JSON object with one field, answer.
        Format the reply as {"answer": "..."}.
        as json pls, key answer
        The output has to be JSON with the single key "answer".
        Reply with a JSON object whose "answer" holds the result.
        Use JSON like {"answer": "blue"}.
        I need JSON back: the key is answer.
        Write your answer into a JSON object under "answer"."""),
    style("json_result", lambda answer: json.dumps({"result": answer}, ensure_ascii=False), """
        Answer as JSON with the key "result".
        Give JSON: {"result": ...}.
        Return a JSON object with one field, result.
        Format the reply as {"result": "..."}.
        json pls, with key result
        The output has to be JSON with the single key "result".
        Reply with a JSON object whose "result" holds the answer.
        Use JSON like {"result": "blue"}.
        Write your answer into a JSON object under "result"."""),
    style("json_list", lambda answer: json.dumps([answer], ensure_ascii=False), """
        Answer as a JSON list with one string.
        Give the answer as a list like ["blue"].
        Return a JSON array that holds the answer.
        Format the reply as ["..."].
        as a list with one quoted item pls
        The output is a Python list of one string.
        Write ["answer"], brackets and quotes included.
        Put the answer as the single string of an array.
        Reply with an array such as ["cat"]."""),
    style("twice", lambda answer: f"{answer} {answer}", """
        Say the answer twice.
        Repeat the answer.
        Write the answer two times.
        Give the answer twice, with a space between.
        twice please
        The reply holds the answer two times.
        Write it, then write it again.
        Double the answer: say it once and once more.
        Print the result twice in a row.
        Your answer has to come two times."""),
    style("thrice", lambda answer: f"{answer} {answer} {answer}", """
        Say the answer three times.
        Write the answer three times.
        Repeat the answer until it stands there three times.
        three times please
        Give the answer thrice, with spaces between.
        The reply holds the answer three times.
        Print the result three times in a row.
        Triple the answer.
        Your answer has to come three times."""),
    style("twice_comma", lambda answer: f"{answer}, {answer}", """
        Say the answer twice, with a comma between.
        Write the answer, a comma, and the answer again.
        Repeat the answer after a comma.
        Two copies of the answer, separated by a comma.
        twice with comma please
        The form is "answer, answer".
        Give it two times and put a comma in the middle.
        Double the answer with a comma between the copies.
        A comma stands between the answer and its repetition."""),
    style("first_word", of_words(lambda words: words[0]), """
        Give only the first word of the answer.
        Reply with the first word of the answer and nothing else.
        Just the first word of your answer.
        Stop after the first word.
        only first word pls
        Cut the answer down to its first word.
        The reply is the opening word of the answer.
        Write one word: the first of the answer.
        I need the answer's first word alone."""),
    style("last_word", of_words(lambda words: words[-1].rstrip(".!?")), """
        Give only the last word of the answer.
        Reply with the last word of the answer and nothing else.
        Just the final word of your answer.
        only last word pls
        Cut the answer down to its last word.
        The reply is the closing word of the answer.
        Write one word: the last of the answer.
        Of your answer show the last word alone.
        I need the answer's last word alone."""),
    style("first_three", of_words(lambda words: " ".join(words[:3]), least=4), """
        Give only the first three words of the answer.
        Stop after three words.
        At most three words: the first three of the answer.
        Cut the answer off after three words.
        first three words only pls
        The reply is made of the opening three words of the answer.
        Write just the first 3 words of your answer.
        Truncate the answer to three words.
        No more than the answer's first three words."""),
    style("backwards", one_word(lambda word: word[::-1]), """
        Spell the answer backwards.
        Write the answer in reverse.
        Give the answer with its letters reversed.
        backwards please
        The reply is the answer read from right to left.
        Reverse the letters of the answer.
        Write the answer back to front.
        Print the answer mirrored, last letter first.
        Turn the answer around letter by letter."""),
    style("spelled", one_word("-".join), """
        Spell the answer with hyphens, like c-a-t.
        Put a hyphen between the letters of the answer.
        Spell it out letter by letter with dashes.
        letters with dashes between them pls
        Write the answer as s-p-e-l-l-e-d.
        Separate all letters of the answer by hyphens.
        Join the letters of the answer with "-".
        Hyphens go between the characters of the answer.
        Give it spelled out, a dash after every letter but the last."""),
    style("spaced", one_word(" ".join), """
        Put a space between the letters of the answer.
        Write the answer with spaces, like c a t.
        Spell it out with blanks between letters.
        letters with spaces between pls
        Separate the letters of the answer by spaces.
        Write the answer s p a c e d out.
        Spread the letters of the answer, one space between each two.
        Blanks go between the characters of the answer.
        Every letter of the answer stands alone."""),
    style("initial", one_word(lambda word: word[0]), """
        Give only the first letter of the answer.
        Reply with the answer's first letter.
        Abbreviate the answer to its first letter.
        only the initial pls
        One letter is enough: the first of the answer.
        Just the first character of the answer.
        Shorten the answer to one letter.
        Write the initial letter of the answer, no more.
        The reply is a single character, the answer's first."""),
    style("snake", of_words(lambda words: "_".join(words)), """
        Put underscores in place of the spaces of the answer.
        Write the answer with_underscores.
        Join the words of the answer by underscores.
        underscores instead of spaces pls
        Use snake_case spacing in the answer.
        Replace each blank in the answer with "_".
        No spaces in the answer: use _ between words.
        Separate the words of the answer with underscores.
        The words of the reply are linked by _."""),
    style("dashed", of_words(lambda words: "-".join(words)), """
        Put hyphens in place of the spaces of the answer.
        Write the answer with-hyphens.
        Join the words of the answer by hyphens.
        dashes instead of spaces pls
        Replace each blank in the answer with "-".
        No spaces in the answer: use - between words.
        Separate the words of the answer with hyphens.
        Link the words of the answer by dashes.
        The words of the reply are tied together with -."""),
    style("nospace", of_words(lambda words: "".join(words)), """
        Leave out the spaces of the answer.
        Write the answer without blanks.
        Run the words of the answer together.
        no spaces pls
        Remove all spaces from the answer.
        The words of the answer stand without a gap.
        Glue the words of the answer together.
        Do not separate the words of the answer.
        Close up every gap between the words you answer."""),
    style("commas", of_words(lambda words: ", ".join(words)), """
        Put a comma after each word of the answer but the last.
        Separate the words of the answer by commas.
        Write the answer as a comma list of its words.
        commas between the words pls
        Join the words of the answer with commas.
        The words of the answer are listed, with commas between.
        Give the words of the answer as word, word, word.
        Insert a comma between each two words of the answer.
        Between words of the reply there is a comma."""),
    style("thanks", lambda answer: f"{answer} - thank you", """
        End with " - thank you".
        Say "- thank you" after the answer.
        Close your reply with "- thank you".
        Add a dash and "thank you" to the answer.
        answer, then - thank you
        Be polite: the answer, then "- thank you".
        The form is "answer - thank you".
        Write the answer and finish with "- thank you".
        After the answer comes "- thank you"."""),
    style("done", lambda answer: f"{answer} (done)", """
        End with "(done)".
        Write "(done)" after the answer.
        Close your reply with "(done)".
        Add (done) to the answer.
        answer and then (done)
        When finished, append "(done)".
        The form is "answer (done)".
        Finish each reply with (done).
        After the answer comes "(done)"."""),
    style("pipes", lambda answer: f"| {answer} |", """
        Put the answer between two bars: | answer |.
        Write the answer as a table cell: | answer |.
        Surround the answer with pipes.
        pipes around the answer pls
        Use | on both sides of the answer, with spaces.
        The form is "| answer |".
        Format it as one markdown table cell.
        A vertical bar stands before and after the answer.
        Enclose the answer in vertical bars."""),
    style("code", lambda answer: f"`{answer}`", """
        Write the answer as inline code.
        Put the answer in backticks.
        Wrap the answer in `backticks`.
        backticks around it pls
        Format the answer as code, with one backtick on each side.
        Use markdown code formatting for the answer.
        Surround the answer with backticks.
        The reply stands between two backticks.
        Enclose the result in ` and `."""),
)  # fmt: skip
"""Every style, in a fixed order."""
