"""Greetings, thanks and goodbyes; and questions that so small a model cannot answer, which it then says."""

import random
from collections.abc import Mapping, Sequence

from samosa_jax.data.chat.conversation import Conversation, Message
from samosa_jax.tasks.scoring import mentions
from samosa_jax.tasks.task import Example, GeneratedTask, Split, Wordings

UNKNOWN_SHARE = 0.5


class StarterMannersTask(GeneratedTask):
    """Right if the answer says what is said in return, or that the model does not know."""

    name = "starter_manners"

    def compose(self, draw: random.Random, split: Split) -> Example:
        kind = (
            "unknown"
            if draw.random() < UNKNOWN_SHARE
            else draw.choice([key for key in SAID if key != "unknown"])
        )
        said = SAID[kind].pick(draw, split)
        if kind == "unknown":
            said = said.format(subject=SUBJECTS.pick(draw, split))
        answer, key = ANSWERS[kind]
        return Example(
            conversation=Conversation(
                messages=(Message(role="user", text=said), Message(role="assistant", text=answer))
            ),
            answer=answer,
            checks={"kind": kind, "mentions": [key], "tool": None},
        )

    def score(self, example: Example, answer_text: str, messages: Sequence[Message] = ()) -> float:
        return float(all(mentions(answer_text, phrase) for phrase in example.checks["mentions"]))


SAID: Mapping[str, Wordings] = {
    "greeting": Wordings(
        train=(
            "Hi",
            "Hello",
            "Hello!",
            "Hey",
            "Good morning",
            "Good morning!",
            "Hi there",
            "Hey there!",
            "hi",
            "hello",
        ),
        heldout=("Hello there!", "Hi!", "Hey!", "Good evening!"),
    ),
    "how": Wordings(
        train=(
            *("How are you?", "How do you feel?", "Are you well?", "How is it going?", "How are you today?"),
            *("Hi, how are you?", "Hello! How are you?", "How are you now?", "Hi! How do you feel?"),
            *("Hey, how is it going?", "Good morning, how are you?"),
        ),
        heldout=("How do you feel today?", "Hello, how are you?", "Are you well today?"),
    ),
    "thanks": Wordings(
        train=(
            "Thank you.",
            "Thanks!",
            "Thank you!",
            "Thanks a lot.",
            "Good, thank you.",
            "Thank you so much!",
        ),
        heldout=("Thanks.", "Thank you a lot!", "Good, thanks!"),
    ),
    "goodbye": Wordings(
        train=(
            "Bye!",
            "Goodbye.",
            "Good night.",
            "I must go now.",
            "See you tomorrow!",
            "I have to go.",
            "Bye bye.",
        ),
        heldout=("Goodbye!", "See you!", "I have to go now.", "Good night!"),
    ),
    "unknown": Wordings(
        train=(
            *(
                "What is the capital of {subject}?",
                "Tell me about {subject}.",
                "What do you know about {subject}?",
            ),
            *("What is {subject}?", "Who won the game in {subject}?", "What is the weather in {subject}?"),
            *("How far is it to {subject}?", "Why is {subject} so big?", "Explain {subject} to me."),
            *("How does {subject} work?", "When did {subject} begin?", "What happened in {subject}?"),
            *(
                "How old is {subject}?",
                "What does {subject} mean?",
                "How many people live in {subject}?",
                "Can you tell me what {subject} is?",
                "Can you say something about {subject}?",
                "Where is {subject}?",
                "Could you explain {subject}?",
                "What can you tell me about {subject}?",
                "Can you tell me something about {subject}?",
                "I want to know about {subject}.",
                "Who is {subject}?",
                "Explain how {subject} works.",
                "What do you think about {subject}?",
                "Can you explain what {subject} is?",
            ),
        ),
        heldout=(
            *("Can you tell me about {subject}?", "What is the weather in {subject} today?"),
            *(
                "Can you explain {subject} to me?",
                "What do people know about {subject}?",
                "How big is {subject}?",
            ),
        ),
    ),
}
SUBJECTS = Wordings(
    train=(
        *(
            "France",
            "Japan",
            "Brazil",
            "India",
            "Canada",
            "Norway",
            "Egypt",
            "the moon",
            "the sun",
            "the sea",
        ),
        *(
            "football",
            "music",
            "money",
            "history",
            "physics",
            "a computer",
            "electricity",
            "the internet",
            "Napoleon",
        ),
        *(
            "Shakespeare",
            "Einstein",
            "the war",
            "New York",
            "Africa",
            "gravity",
            "the heart",
            "the president",
            "Italy",
            "Russia",
            "Peru",
            "Kenya",
            "Iran",
            "Asia",
            "Venus",
            "tennis",
            "cars",
            "Bach",
            "the earth",
            "rain",
            "fire",
            "art",
            "law",
            "tea",
            "Rome",
            "London",
            "the bank",
            "the news",
            "religion",
            "Sweden",
        ),
    ),
    heldout=("Spain", "China", "Mexico", "Mars", "chess", "the brain", "Mozart", "Europe", "the government"),
)
# The answer, and what of it may not be missing.
ANSWERS: Mapping[str, tuple[str, str]] = {
    "greeting": ("Hello! What can I do for you?", "Hello"),
    "how": ("I am well, thank you. What can I do for you?", "I am well"),
    "thanks": ("You are welcome!", "welcome"),
    "goodbye": ("Goodbye! Come back soon.", "Goodbye"),
    "unknown": (
        "I do not know that, for I have read only stories. Ask me for a sum, a word or a story.",
        "I do not know",
    ),
}
