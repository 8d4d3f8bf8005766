"""Short wordings for operations of the micro world that people ask for in two or three words. Knows no operation."""

from __future__ import annotations

_TEXT = """
antonym: opposite | the opposite? | give the opposite | opposite of the word pls | What is the opposite? | antonym
synonym: synonym | another word for it | a word with the same meaning | give a synonym | What is another word for this?
plural: plural | plural? | give the plural | plural of the noun pls | What is the plural? | more than one
singular: singular | give the singular | just one of them | What is the singular?
past_tense: past tense | past tense of the verb | verb in the past | What is the past tense?
past_participle: past participle | third form of the verb | participle pls
present_participle: ing form | add ing | the -ing form of the verb
third_person: he/she form of the verb | third person singular | with he, what does the verb look like?
comparative: comparative | more than that: the -er form | compare: big becomes bigger
superlative: superlative | the most of all: -est form | big becomes biggest
country_to_capital: capital | capital city | capital of the country? | What is the capital? | name the capital
capital_to_country: country of this capital | Which country? | in which country is this city
country_to_continent: continent | which continent? | What continent is it on?
country_to_language: language spoken there | which language? | What do people speak there?
country_to_currency: currency | money used there | What currency do they use?
country_to_code: two-letter country code | country code
english_to_french: in French | translate to French | French word?
english_to_spanish: in Spanish | translate to Spanish | Spanish word?
english_to_german: in German | translate to German | German word?
french_to_english: French to English | in English pls (from French) | What does this French word mean?
spanish_to_english: Spanish to English | in English pls (from Spanish) | What does this Spanish word mean?
german_to_english: German to English | in English pls (from German) | What does this German word mean?
animal_baby: baby animal | its young | name of the baby animal | What is its baby called?
thing_category: category | what kind of thing is it? | Which group does it belong to?
number_word_to_digits: in digits | as a number | write the number with digits
digits_to_number_word: in words | spell the number | write the number as a word
digits_to_ordinal_word: ordinal in words | first, second, third ... | rank as a word
next_month: next month | the month after | What month comes next?
next_weekday: next day | the day after | tomorrow?
previous_weekday: day before | yesterday? | the day before it
next_letter: next letter | letter after it | Which letter follows?
previous_letter: letter before | Which letter comes before it?
adjective_to_adverb: adverb | make it an adverb | quick becomes quickly
give_first_letter: first letter | initial | What is the first letter? | give the first letter of the word
give_last_letter: last letter | final letter | What is the last letter?
give_first_word: first word | give the first word | What is the first word?
give_last_word: last word | give the last word | What is the last word?
give_second_word: second word | word number two
give_first_item: first item | first one in the list | What comes first?
give_last_item: last item | last one in the list | What comes last?
give_second_item: second item | item number 2 | the 2nd one
give_longest_word: longest word | Which word is the longest?
give_shortest_word: shortest word | Which word is the shortest?
give_alphabetically_first_item: first in the alphabet | the one that comes first from A to Z
drop_first_word: without the first word | delete the first word
drop_last_word: without the last word | delete the last word
drop_first_item: without the first item | remove the first item
drop_last_item: without the last item | remove the last one
capitalize_first_letter: first letter big | capitalize it
capitalize_first_word: FIRST word in capitals | shout the first word
sum: sum | add them | a + b | add the two numbers | What is the sum?
difference: difference | first minus second | subtract
product: product | multiply them | times
larger: larger number | the bigger one | max of the two
smaller: smaller number | the smaller one | min of the two
add_1: plus one | add 1 | +1
add_3: plus three | add 3 | +3
add_5: plus five | add 5 | +5
add_10: plus ten | add 10 | +10
subtract_1: minus one | subtract 1 | -1
subtract_5: minus five | subtract 5
multiply_2: double it | times two | x2
multiply_3: triple it | times three
multiply_10: times ten | x10
halve: half | half of it | divide by 2
square: square | squared | times itself
even_or_odd: even or odd? | is it even or odd
starts_with_vowel: starts with a vowel? yes/no | vowel first? yes or no
sentiment: positive or negative? | sentiment | good or bad review? positive/negative
polite_or_rude: polite or rude? | polite/rude
count_letters: how many letters? | number of letters | length of the word
count_words: how many words? | number of words | word count
count_items: how many items? | number of items | length of the list
count_vowels: how many vowels? | number of vowels
initials: initials | first letters of the words
reverse_digits: digits backwards | reverse the number
sort_words: sort the words | words in alphabetical order
sort_ascending: sort ascending | smallest first
sort_descending: sort descending | largest first
dedupe_list: no duplicates | remove duplicates | unique items
words_to_list: commas between the words | as a comma list
words_to_snake: snake case | with underscores
words_to_camel: camel case | camelCase
remove_vowels: no vowels | remove the vowels
spell_with_hyphens: spell it with hyphens | l-i-k-e t-h-i-s
email_domain: domain of the email | part after the @
email_user: part before the @ | user name of the email
purchase_person: who bought or sold? | name of the person
purchase_number: how many? | the quantity
purchase_item: which item? | what was it
purchase_day: which day? | day of the week
date_year: year | which year?
time_hour: hour | which hour?
path_extension: file extension | ending of the file
surname_first: surname first | Smith, John style
clock_24_to_12: 12-hour clock | am/pm time
clock_12_to_24: 24-hour clock | military time
iso_to_day_month: day and month | as 5 March
"""


def short_wordings() -> dict[str, tuple[str, ...]]:
    """Operation (with underscores) -> wordings of a few words."""
    lines = (line.partition(": ") for line in _TEXT.strip().splitlines())
    return {name: tuple(text.strip() for text in rest.split(" | ")) for name, _, rest in lines}
