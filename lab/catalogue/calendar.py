"""Dates, times and the calendar."""

from __future__ import annotations

from random import Random

from lab.content import DAYS, FIRST_NAMES, MONTHS, date
from lab.tasks import Catalogue

CATALOGUE = Catalogue()
task, table = CATALOGUE.task, CATALOGUE.table

_SEASONS = dict(
    zip(
        MONTHS,
        (
            "winter",
            "winter",
            "spring",
            "spring",
            "spring",
            "summer",
            "summer",
            "summer",
            "autumn",
            "autumn",
            "autumn",
            "winter",
        ),
        strict=True,
    )
)
_LENGTHS = dict(zip(MONTHS, (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))
_HOURS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@task("date_to_words", "dates", """
    Write the date in words, like March 5, 2021.
    Turn the date into the form March 5, 2021.
    2021-03-05 becomes March 5, 2021. Do the same.
    Please spell out the month: month name, day, comma, year.
    How would an American write this date with the month's name?
    long date pls (Month day, year)
    I have dates like 1999-12-31 and want December 31, 1999.
    Convert the numeric date to month name, day and year.
    Rewrite the date so that the month is a word: Month D, YYYY.
    Give the date in full, month first.
    """)  # fmt: skip
def _(rng: Random):
    year, month, day = date(rng)
    return f"{year}-{month:02d}-{day:02d}", f"{MONTHS[month - 1]} {day}, {year}"


@task("words_to_iso_date", "dates", """
    Write the date as YYYY-MM-DD.
    Turn the date into numbers: year-month-day.
    iso date pls
    Convert to the format 2021-03-05.
    Please give this date in ISO form, YYYY-MM-DD.
    For sorting I need the date as year, month, day with dashes.
    March 5, 2021 becomes 2021-03-05. Do this with every date.
    How does the date look as YYYY-MM-DD?
    Rewrite the date numerically, year first, with hyphens.
    Dates to ISO 8601.
    """)  # fmt: skip
def _(rng: Random):
    year, month, day = date(rng)
    return rng.choice(
        (
            f"{MONTHS[month - 1]} {day}, {year}",
            f"{day} {MONTHS[month - 1]} {year}",
            f"{MONTHS[month - 1][:3]} {day}, {year}",
        )
    ), f"{year}-{month:02d}-{day:02d}"


@task("date_swap_day_month", "dates", """
    Change the date from month/day/year to day/month/year.
    American date to European date.
    Swap day and month: 12/25/2020 becomes 25/12/2020.
    Put the day first in this US date.
    Please write the American date the British way, day/month/year.
    mm/dd/yyyy -> dd/mm/yyyy
    I live in Europe; turn the US date into day, month, year with slashes.
    The month stands first. Let the day stand first instead.
    How would a Briton write this American date?
    Exchange the first two numbers of the date.
    """)  # fmt: skip
def _(rng: Random):
    year, month, day = date(rng)
    return f"{month:02d}/{day:02d}/{year}", f"{day:02d}/{month:02d}/{year}"


@task("year_in_text", "dates", """
    Which year is mentioned in the sentence?
    Find the year.
    year only
    Copy the four-digit year out of the text.
    Please extract the year from this sentence.
    In which year did it happen?
    The sentence names a year. Return it.
    Give me just the year.
    When was that? Answer with the year.
    pull the year out
    """)  # fmt: skip
def _(rng: Random):
    year, name = rng.randint(1850, 2024), rng.choice(FIRST_NAMES)
    return rng.choice(
        (
            f"{name} moved to the city in {year}.",
            f"The bridge was built in {year} by 300 workers.",
            f"In {year}, {name} won the race.",
            f"The {year} edition of the book has 212 pages.",
            f"Since {year} the shop has sold 40 kinds of tea.",
            f"{name} was born in {year} and has 3 brothers.",
        )
    ), str(year)


@task("season_of_month", "dates", """
    In which season is the date: spring, summer, autumn or winter (northern half of the world)?
    Season of the date.
    spring, summer, autumn or winter?
    Tell the season that goes with this date in Europe.
    Please answer with the season, one of spring, summer, autumn, winter.
    Which time of year is it, spring, summer, autumn or winter?
    Give the northern season of this day.
    What season will it be?
    Name the season (winter, spring, summer or autumn) in which the day falls.
    season pls
    """, "validation")  # fmt: skip
def _(rng: Random):
    month = rng.choice(MONTHS)
    return f"{month} {rng.randint(1, 18)}", _SEASONS[month]


@task("days_in_month", "dates", """
    How many days does the month have in a normal year?
    Number of days in the month.
    days?
    Say how long the month is, in days (not a leap year).
    Please give the number of days of this month.
    28, 30 or 31? Answer for the month.
    For the calendar I need the length of the month.
    Count the days of the month, leap years aside.
    Until which number do the days of this month go?
    The last day of the month has which number?
    """, "exam")  # fmt: skip
def _(rng: Random):
    month = rng.choice(MONTHS)
    return rng.choice((month, month[:3], month.lower(), month.upper(), f"{month} 2023")), str(_LENGTHS[month])


@task("decade", "dates", """
    Which decade is the year in? Answer like 1990s.
    Decade of the year, e.g. 1980s.
    Turn the year into its decade: 1994 becomes 1990s.
    Please say the decade, written like 1970s.
    decade pls
    Replace the last digit of the year by 0 and add an s.
    In what decade was it?
    Group the years by decade: what is the group of this year, such as 2000s?
    Give the ten years this year belongs to, as in 1960s.
    The year 1987 is in the 1980s. And this one?
    """)  # fmt: skip
def _(rng: Random):
    year = rng.randint(1800, 2029)
    return str(year), f"{year // 10 * 10}s"


@task("century", "dates", """
    Which century is the year in? Answer like 19th century.
    Century of the year.
    Tell me the century, for example 18th century.
    In which century was that?
    century pls (like 20th century)
    Please name the century this year belongs to, in the form 17th century.
    1776 is in the 18th century. And this year?
    For my timeline, give the century of the year.
    Convert the year to its century.
    What century do we write in this year?
    """, "exam")  # fmt: skip
def _(rng: Random):
    year = rng.randint(1001, 2029)
    if year % 100 == 0:
        year += 1
    number = year // 100 + 1
    return str(year), f"{number}{'st' if number == 21 else 'th'} century"


@task("weekend", "dates", """
    Is the day on a weekend? Answer weekend or weekday.
    weekend or weekday?
    Say weekend for Saturday and Sunday, weekday for the rest.
    Do people work on this day? Answer weekday if so, weekend if not.
    Please label the day as weekday or weekend.
    Working day (weekday) or free (weekend)?
    What sort of day is it, weekday or weekend?
    Sort days: weekday from Monday to Friday, otherwise weekend.
    Tell apart weekday and weekend.
    The office is open on a weekday and closed on a weekend. Which is it?
    """)  # fmt: skip
def _(rng: Random):
    day = rng.choice(DAYS[:5]) if rng.random() < 0.5 else rng.choice(DAYS[5:])
    text = rng.choice(
        (
            f"{day}",
            f"{day} at {rng.randint(1, 12)} pm",
            f"on {day}",
            f"{day} morning",
            f"{day}, {rng.choice(MONTHS)} {rng.randint(1, 28)}",
        )
    )
    return text, "weekend" if day in DAYS[5:] else "weekday"


@task("part_of_day", "dates", """
    Is the time in the morning, afternoon, evening or night?
    morning, afternoon, evening or night?
    Name the part of the day: night until 6, morning until 12, afternoon until 18, then evening.
    Please say which part of the day the clock shows: morning, afternoon, evening or night.
    What would you call this time: night, morning, afternoon or evening?
    Turn the clock time into a part of the day (morning, afternoon, evening, night).
    part of day?
    Before 6 it is night, before noon morning, before 18:00 afternoon, and later evening. Which one is it?
    Should I greet with good morning, good afternoon, good evening or good night? Give the part after "good".
    Label the time: evening, morning, night or afternoon.
    """, "exam")  # fmt: skip
def _(rng: Random):
    label, hours = rng.choice(
        (("night", range(6)), ("morning", range(6, 12)), ("afternoon", range(12, 18)), ("evening", range(18, 24)))
    )
    return f"{rng.choice(hours):02d}:{rng.randint(0, 59):02d}", label


@task("spoken_time", "dates", """
    Write the spoken time as a clock time, like 3:30.
    Half past three becomes 3:30. Convert the time.
    Time in words to digits.
    What does the clock show? Use the form 4:15.
    Please turn the phrase into hours and minutes with a colon.
    clock time pls
    Someone says the time in words; write it with numbers.
    Give the time as H:MM.
    Put the time in digits, e.g. 9:45 for quarter to ten.
    How do I type this time?
    """)  # fmt: skip
def _(rng: Random):
    hour = rng.randrange(12)
    words, minutes = rng.choice(
        (
            ("half past", 30),
            ("quarter past", 15),
            ("ten past", 10),
            ("twenty past", 20),
            ("five past", 5),
            ("quarter to", -15),
            ("ten to", -10),
            ("twenty to", -20),
            ("five to", -5),
            ("", 0),
        )
    )
    place = hour if minutes >= 0 else (hour - 1) % 12
    text = f"{words} {_HOURS[hour]}" if words else f"{_HOURS[hour]} o'clock"
    return text, f"{place + 1}:{minutes % 60:02d}"


@task("duration_to_minutes", "dates", """
    How many minutes is that in all?
    Convert the duration to minutes.
    minutes?
    Turn hours and minutes into minutes only.
    Please compute the length in minutes, number only.
    2 hours 10 minutes are 130. And this?
    I need the whole duration in minutes.
    Express the time span as a number of minutes.
    Add it up: how many minutes?
    Total minutes of the given time.
    """)  # fmt: skip
def _(rng: Random):
    hours, minutes = rng.randint(1, 5), rng.choice((0, 5, 10, 15, 20, 30, 40, 45, 50))
    unit = "hour" if hours == 1 else "hours"
    text = (
        rng.choice(
            (f"{hours} {unit} {minutes} minutes", f"{hours} h {minutes} min", f"{hours} {unit} and {minutes} minutes")
        )
        if minutes
        else f"{hours} {unit}"
    )
    return text, str(hours * 60 + minutes)


@task("earliest_date", "dates", """
    Which of the dates is the earliest?
    Give the oldest date of the list.
    earliest date pls
    Which date comes first in time?
    Please pick the date that lies furthest back.
    From these dates return the one before all others.
    Find the first date, going by the calendar.
    I want the date that was longest ago.
    What is the earliest date in this list? Copy it.
    Out of several dates choose the first one in time.
    """, "validation")  # fmt: skip
def _(rng: Random):
    dates = sorted({f"{y}-{m:02d}-{d:02d}" for y, m, d in (date(rng) for _ in range(rng.randint(2, 4)))})
    shown = rng.sample(dates, len(dates))
    return ", ".join(shown), dates[0]


@task("latest_time", "dates", """
    Which of the times is the latest?
    Give the last time of the list.
    latest one?
    Which train leaves last? Copy its time.
    Please pick the latest of these times.
    From these clock times return the one after all others.
    Find the time that is furthest on in the day.
    When does the last one start?
    Of the given times I need the latest.
    Return the time nearest to midnight of the same day.
    """)  # fmt: skip
def _(rng: Random):
    times = sorted(
        {
            f"{rng.randint(6, 23):02d}:{rng.choice(('00', '10', '15', '30', '45', '50'))}"
            for _ in range(rng.randint(3, 5))
        }
    )
    return ", ".join(rng.sample(times, len(times))), times[-1]


@task("month_abbreviation", "dates", """
    Shorten the name of the month to three letters.
    Abbreviate the month: September becomes Sep.
    3-letter month pls
    Please give the month's short form of three letters.
    How is the month abbreviated in a date with Jan, Feb and so on?
    Write the date with the month cut to three letters.
    In the date, use Jan, Feb, Mar ... instead of the full name.
    The month should be short (three letters); leave the rest.
    Short month name, all else unchanged.
    Make the month an abbreviation.
    """, "exam")  # fmt: skip
def _(rng: Random):
    month, day = rng.choice([m for m in MONTHS if m != "May"]), rng.randint(1, 28)
    full, short = rng.choice((("{m}", "{m}"), ("{m} {d}", "{m} {d}"), ("{d} {m}", "{d} {m}")))
    return full.format(m=month, d=day), short.format(m=month[:3], d=day)


@task("ordinal_day", "dates", """
    Write the number as an ordinal, like 1st, 2nd, 3rd.
    Add st, nd, rd or th to the number.
    1 becomes 1st. Do the same.
    Ordinal of the number with digits, for example 21st.
    Please turn the number into a rank such as 4th.
    place in the race pls (3 -> 3rd)
    How do you write that floor: 5 is 5th, and this?
    Put the right ending behind the number.
    Make an ordinal number out of it, digits and ending.
    Which ending, st, nd, rd or th? Write number and ending.
    """)  # fmt: skip
def _(rng: Random):
    number = rng.randint(1, 120)
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return str(number), f"{number}{ending}"


@task("date_range_start", "dates", """
    On which date does it begin?
    Start date only.
    first day of the range
    Copy the first of the two dates.
    Please give me the beginning of the period.
    From when? Answer with the date.
    The text names a start and an end. Return the start.
    When does the period start?
    Give only the opening date.
    begin date pls
    """)  # fmt: skip
def _(rng: Random):
    month, start = rng.choice(MONTHS), rng.randint(1, 14)
    end, what = (
        rng.randint(15, 28),
        rng.choice(
            ("The fair", "The course", "My holiday", "The sale", "The exhibition", "The school break", "The festival")
        ),
    )
    return rng.choice(
        (
            f"{what} runs from {month} {start} to {month} {end}.",
            f"{what}: {month} {start} - {month} {end}",
            f"{what} starts on {month} {start} and ends on {month} {end}.",
            f"{what} ends on {month} {end}; it begins on {month} {start}.",
        )
    ), f"{month} {start}"
