"""How questions about days, dates, ages and times are asked."""

from collections.abc import Mapping

from samosa_jax.tasks.task import Wordings

NAMES = Wordings(
    train=(
        *(
            "Maya",
            "Tomas",
            "Leila",
            "Oskar",
            "Priya",
            "Ben",
            "Ingrid",
            "Kofi",
            "Rosa",
            "Hugo",
            "Nadia",
            "Felix",
        ),
        *("Amara", "Jonas", "Wren", "Sana", "Emil", "Clara", "Dev", "Ruth", "Pavel", "Noor", "Ivy", "Marco"),
    ),
    heldout=("Yusuf", "Greta", "Anouk", "Silas", "Meera", "Bruno", "Tessa", "Idris", "Lotte", "Ravi"),
)

QUESTIONS: Mapping[str, Wordings] = {
    "weekday_of_date": Wordings(
        train=(
            "What day of the week is {date}?",
            "On which weekday does {date} fall?",
            "I was wondering which day of the week belongs to {date}.",
            "Tell me the weekday of {date}, please.",
            "{date}: is that a Monday, a Tuesday, or what?",
            "Which day of the week goes with the date {date}?",
        ),
        heldout=(
            "If I look up {date} in a calendar, which weekday will I see?",
            "Can you figure out the name of the day for {date}?",
        ),
    ),
    "weekday_ahead": Wordings(
        train=(
            "Today is {today}. What day of the week will it be in {days} days?",
            "If today is {today}, which weekday comes {days} days from now?",
            "It is {today} now. Which day is it after {days} more days?",
            "Suppose today is {today}. What is the weekday {days} days later?",
            "My parcel takes {days} days and it is {today}. On which weekday does it arrive?",
        ),
        heldout=(
            "Starting on a {today}, where do I land in the week when {days} days have gone by?",
            "We leave this {today} and return {days} days afterwards; name the day we return.",
        ),
    ),
    "weekday_ago": Wordings(
        train=(
            "If today is {today}, what day was it {days} days ago?",
            "Today is {today}. Which weekday was it {days} days earlier?",
            "It is {today}. What day of the week was {days} days back?",
            "Given that today is {today}, name the weekday {days} days before.",
            "I bought it {days} days ago and now it is {today}. On which weekday did I buy it?",
        ),
        heldout=(
            "Going {days} days into the past from a {today}, which day do I reach?",
            "Our cat was born {days} days before this {today}. Which weekday was that?",
        ),
    ),
    "days_between": Wordings(
        train=(
            "How many days are there from {first} to {last}?",
            "Count the days between {first} and {last}.",
            "If something starts on {first} and ends on {last}, how many days later is the end?",
            "I need the number of days from {first} until {last}.",
            "How long is it, in days, from {first} to {last}?",
        ),
        heldout=(
            "{first} was the start and {last} the finish. What is the difference in days?",
            "Please tell me how far apart {first} and {last} are, measured in days.",
        ),
    ),
    "date_after": Wordings(
        train=(
            "What date is {days} days after {first}?",
            "Add {days} days to {first}. Which date is that?",
            "A library book was borrowed on {first} for {days} days. When is it due?",
            "If I start on {first} and wait {days} days, what is the date?",
            "Which date comes {days} days later than {first}?",
        ),
        heldout=(
            "The warranty begins on {first} and lasts {days} days; on which date has it run out?",
            "Counting {days} days onward from {first}, where in the calendar am I?",
        ),
    ),
    "age": Wordings(
        train=(
            "{name} was born on {born}. How old is {name} on {today}?",
            "How old is somebody born on {born} when it is {today}? The name is {name}.",
            "Given a birth date of {born}, what is the age of {name} on {today}?",
            "{name}'s birthday is {born}. What age has {name} reached by {today}?",
        ),
        heldout=(
            "On the form {name} wrote {born} as date of birth and signed it on {today}. Which age is that?",
            "Suppose the date is {today}. {name} came into the world on {born}. What age in whole years?",
        ),
    ),
    "clock_after": Wordings(
        train=(
            "A film starts at {start} and runs for {minutes} minutes. When does it end?",
            "What time is it {minutes} minutes after {start}?",
            "I put bread in the oven at {start} for {minutes} minutes. When is it done?",
            "If it is {start} now, what will the clock show in {minutes} minutes?",
            "A shift of {minutes} minutes begins at {start}. At what time is it over?",
        ),
        heldout=(
            "The concert opens at {start} and takes {minutes} minutes. At what hour do people go home?",
            "My timer was set to {minutes} minutes at {start}. When will it ring?",
        ),
    ),
    "journey": Wordings(
        train=(
            "A {vehicle} leaves at {start} and travels {distance} at {speed} per hour. When does it arrive?",
            "If a {vehicle} sets off at {start}, covers {distance} and keeps to {speed} per hour, when is "
            "it there?",
            "At {start} a {vehicle} departs. It goes {speed} per hour and has {distance} to cover. When "
            "does it get in?",
            "A {vehicle} needs to go {distance} at a steady {speed} per hour, starting at {start}. Arrival "
            "time?",
        ),
        heldout=(
            "I board a {vehicle} at {start}; my stop is {distance} away and we move at {speed} per hour. "
            "What will my watch say on arrival?",
            "Departure {start}, distance {distance}, pace {speed} per hour: what is the arrival time of the "
            "{vehicle}?",
        ),
    ),
    "duration": Wordings(
        train=(
            "How many minutes are there between {start} and {end}?",
            "A meeting went from {start} to {end}. How many minutes did it take?",
            "I started reading at {start} and stopped at {end}. How many minutes was that?",
            "Between {start} and {end} on the same day, how many minutes go by?",
        ),
        heldout=(
            "The shop shut from {start} until {end}. For how many minutes was it closed?",
            "Lesson begins {start}, lesson ends {end}. Its length in minutes?",
        ),
    ),
}
