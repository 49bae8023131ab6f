"""Plots about talking animals: a winter store, the dark, a stuck giant, a lost child, the moon, a race."""

from samosa_jax.data.stories.fragments import Plot

_WINTER = Plot(
    slots={
        "store": ("nuts", "seeds", "acorns", "berries", "mushrooms", "roots"),
        "play": (
            "sing",
            "dance",
            "sleep in the sun",
            "slide down the hill",
            "chase butterflies",
            "lie in the grass",
        ),
    },
    text="""
    #once_beast# {beast.His} best friend was {beast2} the {beast2.kind}.

    [Autumn came|The leaves turned red and yellow|The days grew short and cold]. {beast} gathered {store}
    from morning until evening. "[Come and help|Winter is coming|Soon there will be snow], {beast2},"
    {beast} said. "[Later|Not today|There is plenty of time]," said {beast2}. "Today I want to {play}." [And
    off {beast2.he} went.|{beast2.He} laughed and ran away.| The next day it was the same.] [{beast} shook
    {beast.his} head and went on working.|{beast} carried one load, two loads, three loads.|{beast} worked
    until {beast.his} feet hurt.]

    Then, one #daytime#, the first snow fell. [Everything was white and still.|The river froze, and the wind
    howled.|It snowed and snowed.] {beast} sat in {beast.his} warm [home|nest|hole] and ate [some {store}|a
    good dinner]. [Knock, knock!|There was a soft knock.|Someone scratched at the door.] It was {beast2},
    [cold and hungry|with snow on {beast2.his} nose| shaking from head to toe]. "[I have nothing to eat|I
    was so foolish|You were right], {beast}," {beast2.he} said [sadly|in a small voice].

    [{beast} thought about it, but not for long.|{beast} could have said, "I told you so," but {beast.he}
    did not.|{beast} opened the door wide.] "Come in," said {beast}. "[There is enough for two|You are my
    friend|A full house is a warm house]. [But next year you will help me|Next year we will work
    together|But promise to help me next year]." "[I promise|I will| You can count on me]," said {beast2}.
    [They ate together and told stories by the fire.|All winter long they kept each other warm.]

    And when the next autumn came, {beast2} was the first one [awake|in the forest|at work]. "[Hurry,
    {beast}|Get up, {beast}| Come on, {beast}]!" {beast2.he} called. "[Winter will not wait|First we work,
    and then we {play}|I have already found a whole pile of {store}]!" {beast} [laughed|smiled|could hardly
    believe it]. #beasts_end#
    """,
)

_DARK = Plot(
    slots={"light": ("firefly", "glowworm", "moth", "cricket", "ladybug", "little beetle")},
    text="""
    #once_beast# But {beast} had a secret: {beast.he} was afraid of [the dark|the night]. [When the sun went
    down, {beast.he} hid under {beast.his} blanket.|Every shadow looked like a monster to {beast.him}.|At
    night {beast.he} heard noises everywhere.]

    One night, {beast} heard #heard# [outside|near {beast.his} home|behind the bushes]. {beast.He} [pulled
    the leaves over {beast.his} head|shut {beast.his} eyes|held {beast.his} breath]. Then {beast.he} heard
    it again. "[Help!|Please, help me!|Is anybody there?]" It did not sound like a monster. It sounded [very
    small|lost|afraid].

    [{beast}'s heart was beating fast.|{beast} shook all over.|{beast} wanted to stay in bed.] But somebody
    needed help. So {beast.he} [took one step, and then another|put on {beast.his} hat and went out|opened
    the door and looked out]. A {light} was [caught in a spider's web|lying on its back|sitting in the wet
    grass and crying]. "[I am lost|I cannot get free|I hurt my wing]," it said. "[And I am afraid|It is so
    dark here|Nobody came]." "[So am I|I know that feeling|I am here now]," said {beast}.

    [Carefully|Slowly|Gently] {beast} [helped it|set it free|lifted it up]. "[How brave you are|You are very
    brave|You came all alone in the dark]," said the {light}. "I? Brave?" {beast} [laughed|was
    surprised|blinked]. "I was scared the whole time." "[That is what brave means|You were scared, and you
    came anyway|Being brave is being scared and helping anyway]," said the {light}. [It sat down next to
    {beast}, and together they looked up.|Then it showed {beast} the night.]

    The sky was full of stars. [An owl called far away, and it sounded like a song.|The grass smelled
    sweet.|The moon lay on the water like a [plate|coin|boat].] "[I never knew the night was so
    beautiful|The dark is full of lights|It is not so dark after all]," said {beast}. #beast_happy# [From
    then on, {beast} was not afraid anymore, or only a little.|After that, {beast} often went out to greet
    the stars.|And {beast} slept well that night, with the window open.]
    """,
)

_STUCK = Plot(
    slots={
        "trap": (
            "a deep hole",
            "the mud",
            "a thorn bush",
            "an old fence",
            "a hollow log",
            "a tangle of ropes",
        ),
        "plan": ("dig", "pull", "bite through the branches", "push from behind", "make a path of stones"),
    },
    text="""
    #once_beast# [The bigger animals often laughed at {beast.him}.|Nobody asked {beast.him} for help,
    because {beast.he} was so small.|"You are too small for that," the others always said.] [{beast} wished
    to be as big as a [horse|bear|hill].|That made {beast.him} sad.|"One day I will show them," {beast.he}
    thought.]

    #time#, {beast} was walking #forest_walk#. Suddenly {beast.he} heard a [deep groan|loud cry|heavy sigh].
    A {giant} was stuck in {trap}! "[Help me|I cannot get out|I have been here since last night]," said the
    {giant}. "[Let me try|I will help you| Hold still]," said {beast}. The {giant} [looked down|looked
    around|smiled sadly]. "You? [You are so small.|What can you do?| You are no bigger than my foot.]"

    "[Small is not the same as weak|Wait and see|I am small, but I can think]," said {beast}. {beast.He}
    [looked at it from all sides|walked around once, then twice|thought and thought]. Then {beast.he} called
    {beast2} the {beast2.kind}, and {beast2} called [{number} friends|all the neighbors|every small animal
    in the forest]. "If we all {plan}, we can do it," said {beast}. "[One, two, three|All together
    now|Ready? Now]!" [They worked and worked.|They did not stop, not even when it began to rain.|Everyone
    helped, even the ants.]

    At last, the {giant} was free. {giant_he} [stretched|shook off the dirt|took a deep breath]. "[I was
    wrong|I am sorry I laughed|I will never say small again]," said the {giant}. "[You have a big heart|You
    are the strongest friend I know| Thank you, {beast}]." #beast_happy#

    From then on, {beast} [rode on the {giant}'s back|had a very big friend|was never laughed at again].
    [And when somebody said, "You are too small," the {giant} only smiled.|Even the smallest friend can be a
    great help.|It does not matter how big you are, but what you do.|] #beasts_end#
    """,
)

_LOST_CHILD = Plot(
    slots={
        "sign": (
            "tall pine tree",
            "big white stone",
            "crooked birch tree",
            "old bridge",
            "wooden gate",
            "waterfall",
            "mossy well",
        )
    },
    text="""
    #once_beast# #time#, {beast} went out to find [berries|mushrooms|some honey|seeds] for dinner. #weather#
    "[Do not go too far |Come back before dark|Stay on the path]," said {beast.his} mother. "[I will not|I
    promise|Yes, Mother]," said {beast}.

    But [the best berries were always a little farther|a [blue|yellow|white] butterfly flew by|there was so
    much to see]. {beast} went #forest_walk#. When {beast.he} looked up, nothing looked the same. "[Where am
    I|Which way is home|Did I come from there]?" {beast.he} asked. Only the wind answered. #beast_sad#

    "[Hello, who is there?|Good day. Are you lost?|Why are you crying?]" said a [voice|quiet voice|friendly
    voice]. It was {beast2}, a {beast2.kind}. "[I am lost|I cannot find my way home]," said {beast}. "[What
    is near your home?|What do you see from your door?|Do you remember anything?]" asked {beast2}. {beast}
    [closed {beast.his} eyes|thought hard|wiped {beast.his} nose]. "There is a {sign}," {beast.he} said.
    "And in the morning I hear [water|bells|a rooster|the frogs]."

    "[I think I know that place|I have seen it|Then we must go west]," said {beast2}. "Come with me." They
    walked #forest_walk#. [Once they took a wrong turn, but {beast2} was not worried.|On the way they asked
    a {giant}, who pointed with {giant_his} nose.|It grew dark, and they held on to each other.] {beast2}
    [sang a song|told a joke|counted their steps] so that {beast} would not be afraid.

    At last they came over a hill, and there was the {sign}! And [next to it|in front of it] stood
    {beast.his} mother, calling. "[{beast}! There you are|My little one|I looked for you everywhere]!" she
    cried. [She hugged {beast} for a long time.|{beast} ran into her arms.] "[I am sorry. I went too far|I
    forgot my promise]," said {beast}. "[I am just glad that you are home|Next time you will remember]," she
    said. {beast2} stayed for dinner. #beast_happy# #beasts_end#
    """,
)

_MOON = Plot(
    slots={
        "reach": ("the highest hill", "the tallest tree", "the top of the old tower", "the edge of the cliff")
    },
    text="""
    #once_beast# One night, {beast} looked at the moon. It was round and [bright|yellow|white as milk]. "[I
    want to touch it|I wish I had it|I want to bring it home]," said {beast}. "[Nobody can touch the moon|It
    is too far away|You are funny]," said {beast2} the {beast2.kind}. But {beast} [did not listen|had made
    up {beast.his} mind|wanted to try].

    So {beast} climbed up {reach}. [It took {beast.him} half the night.|{beast.He} slipped, but {beast.he}
    went on.|{beast.He} stopped only to catch {beast.his} breath.] At the top {beast.he} stood on
    {beast.his} toes and stretched. The moon was [as far away as before|still high above {beast.him}|no
    closer at all]. #beast_sad# [A {giant} passing by asked, "What are you doing up here?"|"You, too?" said
    an old owl. "I tried that when I was young."|]

    When {beast.he} came down, {beast2} was waiting by the pond. "[Come here|Do not be sad|Look what I
    found]," {beast2.he} said, and pointed at the water. There was the moon, [floating on the pond|right at
    their feet|as round as a plate]! {beast} put [a foot|{beast.his} nose|one finger] into the water. The
    moon [shook|broke into a hundred pieces|danced], and then it was whole again. "[I touched it|I touched
    the moon]!" {beast.he} shouted.

    [They laughed and splashed until the frogs complained.|They threw in a stone and watched the moon
    wobble.|They sat there for a long time.] "[It belongs to everyone|You cannot take it home|Tomorrow it
    will be somewhere else]," said {beast2}, "[but we can always visit|but you can look at it every
    night|and that is good, too]." #beast_happy# #beasts_end#
    """,
)

_RACE = Plot(
    slots={
        "prize": (
            "a basket of berries",
            "a crown of flowers",
            "a jar of honey",
            "a shiny shell",
            "a red ribbon",
        )
    },
    text="""
    #time#, the animals of the forest held a race. The winner would get {prize}. {beast} the {beast.kind}
    was there, and so was {beast2} the {beast2.kind}. "[I am the fastest|Nobody can beat me|You will only
    see my tail]," said {beast2}. "[I will do my best|We will see|I just want to have fun]," said {beast}.
    [All the others stood along the path and cheered.|#weather#| An old {giant} was the judge.]

    "[Ready, set, go|One, two, three, go]!" {beast2} ran ahead at once. {beast} came [last|behind
    {beast2.him}|slowly but surely]. They ran #forest_walk#. [Soon {beast2} was so far ahead that nobody
    could see {beast2.him}.|{beast2} looked back and laughed.|{beast} did not look left or right.]

    But near the end, {beast2} [tripped over a root|stepped on a thorn|slipped on wet leaves|fell into a
    ditch]. "[Ow, my foot| Ouch|Oh, it hurts]!" {beast2.he} cried. Then {beast} came around the bend.
    [{beast} could see the finish line.|Now {beast} could win the race!|The finish line was so close.]
    {beast} [stopped|slowed down|stood still]. "[Can you walk?|Are you hurt?| Let me see.]" {beast.he}
    asked. "[Go on|You can win now|Do not wait for me]," said {beast2}. "[Winning is not everything|A race
    is only a race|I would rather have a friend than a prize]," said {beast}.

    {beast} [put {beast.his} arm around {beast2.him}|gave {beast2.him} a stick to lean on|cleaned the sore
    foot], and they crossed the line together. [Everybody was silent, and then everybody cheered.|"What a
    finish!" said the crowd.|The cheering was louder than ever.] "[I cannot tell who won|It seems we have
    two winners|This prize must be shared]," said the judge. So they shared the prize. "[I am sorry that I
    boasted|You are faster than me where it counts|Thank you for stopping]," said {beast2}. #beast_happy#
    #beasts_end#
    """,
)

ANIMAL_PLOTS = (_WINTER, _DARK, _STUCK, _LOST_CHILD, _MOON, _RACE)
