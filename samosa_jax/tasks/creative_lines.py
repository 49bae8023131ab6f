"""Lines for couplets, limericks and jokes, and ways to ask for them."""

from collections.abc import Mapping

from samosa_jax.tasks.task import Wordings

REQUESTS: Mapping[str, Wordings] = {
    "haiku": Wordings(
        train=(
            "Write a haiku about {topic}.",
            "Can you make a haiku with the word {topic} in it?",
            "Give me a haiku on the theme of {topic}.",
            "A haiku about {topic}, please.",
            "Compose a short poem of 5, 7 and 5 syllables about {topic}.",
        ),
        heldout=(
            "Seventeen syllables in three lines, with {topic} somewhere.",
            "I collect haiku. Could yours be of {topic}?",
        ),
    ),
    "couplet": Wordings(
        train=(
            "Write a rhyming couplet about {topic}.",
            "Two lines that rhyme, about {topic}, please.",
            "Make me a couplet with {topic} in it.",
        ),
        heldout=("I need a pair of rhyming verses featuring {topic}.",),
    ),
    "limerick": Wordings(
        train=(
            "Write a limerick about {topic}.",
            "Can you do a limerick that begins with {topic}?",
            "Give me five funny lines about {topic}, rhymed as a limerick.",
        ),
        heldout=("Try your hand at a limerick whose hero is {topic}.",),
    ),
    "joke": Wordings(
        train=(
            "Tell me a joke about a {topic}.",
            "Do you know a joke with a {topic} in it?",
            "Make me laugh with a {topic}.",
        ),
        heldout=("I could use a two-line pun on the subject {topic}.",),
    ),
}
SETTINGS = Wordings(
    train=(
        "",
        "",
        "It is for a birthday card.",
        "My class will read it.",
        "Keep it light.",
        "It is a rainy day here.",
        "I want to print it.",
    ),
    heldout=("", "It goes on our fridge.", "Surprise me.", "We read aloud tonight."),
)

# (topic, first lines, second lines): every first rhymes with every second.
COUPLETS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "kite",
        ("My paper kite went up into the light,", "I let my kite go dancing in the light,"),
        ("and came back down long after it was night.", "and lost it, small and happy, out of sight."),
    ),
    (
        "tea",
        ("A cup of tea is sitting next to me,", "I brew my tea and look towards the sea,"),
        ("as warm as any quiet room is free.", "and share the cake with one attentive bee."),
    ),
    (
        "train",
        ("The evening train goes humming through the rain,", "I took the early train along the lane,"),
        ("and all its windows shine from pane to plain.", "and dreamt of lemon trees I saw in Spain."),
    ),
    (
        "moon",
        ("A slice of moon hung low and shone in June,", "The moon was round and yellow as a spoon,"),
        ("and all the crickets played the same old tune.", "and someone lost a silver-white balloon."),
    ),
    (
        "guitar",
        ("I tuned my old guitar beneath a star,", "He left his best guitar inside the car,"),
        ("and someone heard me, though the town was far.", "and kept his coins for strings inside a jar."),
    ),
    (
        "snow",
        ("The snow came down so quietly and slow,", "All night the snow had nowhere else to go,"),
        ("that every lamp put on a golden glow.", "so now the hens sit grumbling in a row."),
    ),
    (
        "bread",
        ("The smell of bread had got me out of bed,", "A loaf of bread was cooling, round and red,"),
        ("and that was all the news I needed, as I said.", "so no one ate the soup; we had that instead."),
    ),
    (
        "cat",
        ("My cat has claimed the middle of the mat,", "The cat looked up at me from where she sat,"),
        ("and no one in the house would argue that.", "and then went back to sleep inside my hat."),
    ),
    (
        "river",
        ("The river takes its time along the way,", "I watched the river carry off the day,"),
        ("and never hears us when we tell it: stay.", "and throw its silver at the evening grey."),
    ),
    (
        "clown",
        ("A tired clown walked slowly through the town,", "I met a clown whose painted smile was brown,"),
        ("and bowed to every lamp post up and down.", "and lent him, for an hour, my paper crown."),
    ),
)

# (who, from where, second lines, fifth lines): all of a group rhyme with the place.
LIMERICK_ENDS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "a young baker",
        "from Spain",
        ("Who carried his loaves in the rain", "Who delivered his rolls on a train"),
        ("And did it all over again", "And walked all the way down the lane"),
    ),
    (
        "an old sailor",
        "from Nice",
        ("Who travelled with nothing but rice", "Who slept on a bed made of ice"),
        ("And told us the story twice", "And sold us his hat for the price"),
    ),
    (
        "a fine goose",
        "down in Ghent",
        ("Who lived in a circular tent", "Who never knew quite where she went"),
        ("And came home with all her gold spent", "And wished she had not been so bent"),
    ),
    (
        "a shy tailor",
        "in town",
        ("Who sewed a remarkable gown", "Who stitched all his curtains in brown"),
        ("And wore it himself, with a crown", "And hung all the mirrors head down"),
    ),
    (
        "a tall teacher",
        "with tea",
        ("Who taught by the side of the sea", "Who lectured a very smart bee"),
        ("And said that all lessons were free", "And gave a gold star to a tree"),
    ),
    (
        "a small poet",
        "in June",
        ("Who wrote every verse with a spoon", "Who only got up around noon"),
        ("And mailed all his rhymes to the moon", "And left in a yellow balloon"),
    ),
)
LIMERICK_MIDDLES: tuple[tuple[str, str], ...] = (
    ("The neighbours all said,", "Stay longer in bed,"),
    ("A dog and a cat", "Sat down on a mat,"),
    ("On top of the hill", "It all became still,"),
    ("Someone played the guitar", "In front of the car,"),
    ("One day in the snow", "There was nowhere to go,"),
)

# (topic, question, reply); every line is a pun of its own.
JOKES: tuple[tuple[str, str, str], ...] = (
    (
        "calculator",
        "Why did everybody trust the calculator at the party?",
        "They knew that they could count on it.",
    ),
    (
        "ladder",
        "Why did the ladder never get lonely at work?",
        "There was always somebody looking up to the ladder.",
    ),
    ("clock", "Why was the clock sent out of the library?", "It would not stop its tick-talking."),
    ("pencil", "What did the pencil say after a long day?", "I am not sure what my point was."),
    ("river", "Why is a river so good with money?", "It always keeps close to its banks."),
    ("keyboard", "Why was the keyboard so calm before the exam?", "It had all the answers at its keys."),
    ("baker", "Why did the baker take a second job?", "The baker kneaded the dough."),
    ("piano", "Why could nobody get into the house of the piano teacher?", "All the keys were on the piano."),
    ("candle", "How did the candle feel at its birthday?", "Delighted at first, and burnt out later."),
    ("bicycle", "Why does a bicycle never win an argument?", "A bicycle is always two-tired to go on."),
    ("map", "Why did the map get top marks at school?", "It knew its place, and everybody else's."),
    ("broom", "Why was the broom late for work again?", "It over-swept."),
    ("samosa", "Why did the samosa win the beauty contest?", "It was well rounded in all three corners."),
    ("elevator", "How is life as an elevator?", "It has its ups and downs for an elevator."),
    ("battery", "Why did the police let the battery go?", "It turned out to be free of charge."),
    (
        "onion",
        "Why did nobody want to hear the sad story of the onion?",
        "It had too many layers, and all of them ended in tears.",
    ),
)
