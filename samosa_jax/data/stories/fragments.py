"""`Plot`, and the fragments that several plots share: beginnings, weather, walks, feelings, endings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from samosa_jax.data.stories.words import (
    BIG_ANIMALS,
    COLORS,
    FOODS,
    SMALL_ANIMALS,
    SMALL_THINGS,
    TOYS,
    VEGETABLES,
)


@dataclass(frozen=True)
class Plot:
    """A grammar in one text (`stories` says how to read it) and the words it draws once for a whole story."""

    text: str
    slots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _any(options: Sequence[str]) -> str:
    return f"[{'|'.join(options)}]"


FRAGMENTS = {
    "color": _any(COLORS),
    "small_thing": _any(SMALL_THINGS),
    "some_toy": _any(TOYS),
    "some_food": _any(FOODS),
    "some_animal": _any(SMALL_ANIMALS),
    "big_animal": _any(BIG_ANIMALS),
    "vegetable": _any(VEGETABLES),
    "size": "[big|small|tiny|huge|tall|round|little|long]",
    "nice": """
        [kind|gentle|friendly|cheerful|clever|brave|curious|quiet|careful|helpful|polite|funny|lively|thoughtful]""",
    "daytime": "[morning|afternoon|day]",
    "weekday": "[Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday]",
    "season": "[spring|summer|autumn|winter]",
    "time": """
        [One #nice_day# #daytime#|One day|One #weekday#|One #weekday# morning|Early one morning|Late one
        afternoon|One #season# #daytime#|One day in #season#|On a [bright|cloudy|breezy|golden|fine] #season#
        #daytime#|After breakfast one morning|After lunch one day|Not long ago]""",
    "once": """
        [Once upon a time,|Long ago,|Once,|In a small town,|In a #color# house at the end of the street,|Not
        far from here,|In a village by the [sea|river|hills|woods],] there [was|lived] a [little|young|small]
        {hero.kind} named {hero}. [{hero.He} was #nice# and #nice#.|{hero.He} had
        [curly|short|long|dark|red|brown|black] hair and a [big|warm|shy|bright] smile.|{hero.He} lived with
        {hero.his} [mom and dad|family|grandma|two brothers|big sister|mom and a [lazy|sleepy|fat]
        cat].|Everyone said that {hero} was a very #nice# {hero.kind}.|{hero.He} was
        [four|five|six|seven|eight] years old.|] [{hero} [loved|liked] to #hobby#.|More than anything, {hero}
        [loved|liked] to #hobby#.|Every day {hero.he} liked to #hobby#.|]""",
    "hobby": """
        [sing|dance in the kitchen|draw #color# [cats|houses|boats|birds|flowers]|climb trees|run down the
        hill|look at the stars|build towers out of blocks|count the birds|help in the garden|jump in
        puddles|read books about [dragons|ships|bears|the moon]|play with {hero.his} [#some_toy#|#color#
        #some_toy#]|tell jokes|bake with {elder}|ask questions|pick flowers|paint pictures|splash in the
        water|play outside|make up songs|feed the ducks|watch the clouds|ride {hero.his} #color# bike|collect
        [leaves|stamps|shells|stones|buttons]]""",
    "once_beast": """
        [Once upon a time,|Long ago,|Once,|Deep in the [green|quiet|old|dark] forest,|At the edge of a
        [wide|sunny|green] meadow,|By a [slow|small|clear|sparkling] river,|Under the roots of an old oak
        tree,] there lived a [little|young|small|tiny] {beast.kind} named {beast}. [{beast.He} was #nice# and
        #nice#.|{beast.His} home was [small but warm|round and cozy|full of soft leaves|dry even in the
        rain].|All the animals knew {beast} because {beast.he} was so #nice#.|{beast.He} had
        [soft|shiny|bright|big] [eyes|ears|little feet] and a [kind|brave|loud|gentle] voice.|] [{beast.He}
        liked to [listen to the wind|sleep in the sun|play by the water|look for
        [berries|nuts|seeds|mushrooms]|hum little songs|watch the fireflies|roll down the hill|tell
        stories].|]""",
    "dull_time": """
        [One [gray|cold|dark|windy|stormy] #daytime#|One #weekday#|One #weekday# morning|One day in
        #season#|One afternoon]""",
    "morning": """
        [One #nice_day# morning|One morning|One #weekday# morning|Early one morning|One #season# morning]""",
    "nice_day": "[sunny|warm|bright|cool|windy|quiet|lovely|misty|fresh]",
    "weather": """
        [The sun was [shining|warm|high in the sky].|The sky was [blue|gray|full of white clouds].|A
        [soft|cool|warm|gentle] wind was blowing.|The birds were singing in the trees.|The air smelled of
        [rain|grass|flowers|warm bread|wet leaves|the sea].|It was [warm|cool|a little cold|very quiet]
        outside.|It had rained all night, and there were puddles everywhere.|The [leaves|branches] were
        [dancing|moving|shaking] in the wind.|Little white clouds sailed across the sky.|There was not a
        cloud in the sky.]""",
    "walk": """
        past the [bakery|school|pond|old barn|fountain|church|post office|flower shop|tall gate|sleeping
        cat|apple trees], [over|across] the [bridge|little bridge|field|street|stream|square], and [up|down]
        the [hill|path|lane|long road|narrow street|stone steps]""",
    "forest_walk": """
        [through|into|across] the [tall grass|wet leaves|bushes|ferns|reeds|pine trees|field],
        [over|under|around] the [fallen log|mossy stones|old fence|stream|tree roots|muddy pond], and
        [up|down|along] the [hill|bank|narrow path|valley|slope]""",
    "heard": """
        [a soft sound|a loud noise|a strange noise|a tiny voice|someone crying|a little squeak|a rustle|a
        splash]""",
    "hero_sad": """
        [{hero} felt very sad.|{hero} wanted to cry.|A tear ran down {hero}'s cheek.|{hero.His} heart felt
        heavy.|{hero} looked down at {hero.his} shoes.|{hero} sat down and sighed.|{hero.He} did not feel
        like playing anymore.|{hero}'s lip began to shake.]""",
    "hero_happy": """
        [{hero} was so happy.|{hero} smiled a big smile.|{hero} laughed and clapped {hero.his} hands.|{hero}
        jumped up and down with joy.|{hero} felt warm inside.|{hero} felt proud.|{hero}'s eyes were
        shining.|{hero} danced around the room.|{hero} could not stop smiling.|{hero} gave a happy shout.]""",
    "beast_sad": """
        [{beast} felt very sad.|{beast} sat down on a [stone|log|leaf] and sighed.|A tear rolled down
        {beast}'s nose.|{beast} hung {beast.his} head.|{beast} did not know what to do.|{beast} felt small
        and alone.]""",
    "beast_happy": """
        [{beast} was so happy.|{beast} jumped for joy.|{beast} spun around three times.|{beast} laughed until
        {beast.his} [belly|nose|sides] shook.|{beast} felt warm all the way down to {beast.his}
        toes.|{beast}'s eyes shone like [stars|two drops of dew|the moon on the water].]""",
    "thanks": """
        ["Thank you so much!"|"Thank you!"|"Oh, thank you!"|"Thank you, that is very kind of you,"|"How can I
        thank you?"|"You are so kind,"]""",
    "home": """
        [When the sun went down|When it got dark|In the evening|Before dinner|When the first star came out|At
        the end of the day], they [went|walked|ran|skipped] home""",
    "bedtime": """[That night, {hero} [fell
        asleep|slept] with a smile on {hero.his} face.|At bedtime, {hero} told {elder} all about it.|That
        night, {hero} dreamed of [stars|the sea|flying|a warm summer day|dancing bears|boats made of
        clouds].|When the moon came up, {hero} was already [asleep|dreaming].|{elder} kissed {hero} good
        night and turned off the light.|]""",
    "friends_end": """
        [From that day on, {hero} and {friend} were best friends.|{hero} and {friend} played together every
        day after that.|They stayed friends for a long, long time.|And that is how {hero} and {friend} became
        friends.|After that day, {hero} was never lonely again.|"Let us meet again tomorrow," said {friend},
        and they did.]""",
    "beasts_end": """
        [From that day on, {beast} and {beast2} were best friends.|They stayed friends for many, many
        winters.|And every evening the two friends sat together and watched the stars.|After that, {beast}
        and {beast2} did everything together.|And if you go to the forest, you may still hear them
        laughing.|]""",
    "snack": """
        [They shared a #some_food#.|They sat in the [shade|sun|grass] and ate a #some_food# together.|{elder}
        gave each of them a #some_food#.|They were hungry, so they shared a #some_food# and drank some
        [milk|water|apple juice|lemonade].|]""",
}
