"""Plots about children: a lost toy, a rainy day, baking, a new friend, a garden, a kite, the sea."""

from samosa_jax.data.stories.fragments import Plot

_LOST_TOY = Plot(
    slots={
        "spot": (
            "under the bed",
            "behind the sofa",
            "in the laundry basket",
            "inside a rain boot",
            "under a pile of leaves",
            "behind the curtain",
            "on top of the shelf",
            "in the kitchen drawer",
            "under the big blanket",
            "next to the garden gate",
            "in the doghouse",
            "at the bottom of the toy chest",
            "in the bathtub",
        ),
        "loss": ("lost", "missing", "gone"),
    },
    text="""
    #once# {hero.His} favorite thing was a #size# {color} {toy}. [{hero.He} took it everywhere.|{elder} had
    given it to {hero.him} for {hero.his} birthday.|{hero.He} kept it next to {hero.his} pillow.|It was old,
    but {hero} did not mind.|Nobody else had a {toy} like it.]

    #morning#, {hero} woke up, and the {toy} was {loss}. ["Oh no!" {hero.he} cried.|"Where is my {toy}?"
    {hero.he} asked.| {hero.He} looked and looked, but it was not there.] #hero_sad#

    [{elder} came into the room.|{elder} heard {hero.him} and came quickly.|{hero} ran to {elder}.] "[Do not
    worry|Do not cry|Let us think],"  said {elder}. "[Where did you play yesterday|Where did you see it
    last|What did you do before dinner]?" {hero} thought hard. "[I played in the kitchen|I was in the
    garden|I played with {friend}|I do not remember]," {hero.he} said.

    [They looked under the table. It was not there.|First they looked in the [closet|car|hall]. There was
    only a #color# #small_thing#.|{hero} looked behind the door and found a #small_thing#, but no {toy}.]
    [They asked {friend}, but {friend.he} had not seen it.|They looked in every box.|] [Then {pet} the
    {pet.kind} {pet.sound}.|Then {pet} the {pet.kind} came in and {pet.is_glad}.|Just then, {hero} saw {pet}
    the {pet.kind} [run|walk] past.] "[Look at {pet}|I think {pet} knows something|{pet} wants to show us
    something]!" said {hero}.

    They [followed|went after] {pet}. And there it was! The {color} {toy} was {spot}. ["You found it!" cried
    {hero}.|"Good {pet.kind}!" said {elder}.|{hero} hugged the {toy} tightly.] #hero_happy# [{hero} gave
    {pet} a big hug, too.|{pet} {pet.is_glad}.|{pet} got a treat that day.] [From then on, {hero} put the
    {toy} [in its box|on the shelf|next to {hero.his} bed] every night.|After that, {hero} always remembered
    to put {hero.his} things away.|] #bedtime#
    """,
)

_RAINY_DAY = Plot(
    slots={
        "house": (
            "a castle",
            "a ship",
            "a cave",
            "a spaceship",
            "a train",
            "a tent",
            "an igloo",
            "a submarine",
        ),
        "stuff": (
            "two chairs and a blanket",
            "an old box",
            "all the pillows",
            "a sheet and some clothespins",
            "a table and a big towel",
            "cardboard and tape",
        ),
    },
    text="""
    #dull_time#, it rained and rained. {hero} stood at the window and watched the [drops|puddles|gray
    clouds]. ["I wanted to go to {place}," {hero.he} said.|"Rain, rain, go away," {hero.he} sang, but the
    rain did not listen.|{hero.He} had planned to play {place.at} with {friend}.] #hero_sad#

    [Then there was a knock at the door.|Then the doorbell rang.|Just then, someone knocked.] It was
    {friend}, in a #color# raincoat and [big|muddy|shiny] #color# boots. "[We can play inside|We do not need
    the sun to have fun|I have an idea]," said {friend}. "[Let us build|We can make|How about we build]
    {house}!"

    They took {stuff}. [{hero} held one end, and {friend} held the other.|{friend} tied the knots, and
    {hero} brought the [lamp|pillows|map].|It fell down two times, but they tried again.] Soon they had
    {house} in the middle of the room. ["I am the captain!" said {hero}.|"You are the captain," said {hero},
    "and I am the cook."|"Nobody can find us here," whispered {friend}.|"Look out for the
    [dragon|whale|giant|storm]!" shouted {friend}.] [Even {pet} the {pet.kind} wanted to come in.|{pet} the
    {pet.kind} was the [dragon|guard|king|pirate].|{pet} the {pet.kind} {pet.sound} and crept inside.|]

    [They sailed to far places|They flew to the moon and back|They told stories in the dark|They had many
    adventures], and they forgot all about the rain. {elder} brought them a #some_food#. "[May I come in|Is
    there room for one more|Who lives here]?" asked {elder}. "[Only if you know the secret word|Of
    course|Yes, but watch your head]!" [they laughed|said {hero}|said {friend}].

    [When they looked outside, the sun was shining.|At last the rain stopped, and there was a rainbow.|Later
    the rain stopped, but they did not even notice.] "[I like rainy days now|That was the best rainy day
    ever|I hope it rains again tomorrow]," said {hero}. [{friend} nodded and smiled.|{friend} laughed. "So
    do I."|] #bedtime#
    """,
)

_BAKING = Plot(
    slots={
        "cake": (
            "cake",
            "apple pie",
            "loaf of bread",
            "tray of cookies",
            "batch of muffins",
            "pot of soup",
            "stack of pancakes",
            "pizza",
        ),
        "missing": ("salt", "butter", "milk", "flour", "oil"),
        "why": (
            "it was {friend}'s birthday",
            "{hero.his} cousin was coming to visit",
            "it was a holiday",
            "the old sailor at the harbor was sick in bed",
            "there was a party that night",
            "{hero.he} wanted to say thank you",
        ),
    },
    text="""
    #once#

    #time#, {hero} wanted to make a {cake} because {why}. "[Can you help me|Will you help me|Shall we do it
    together]?" {hero.he} asked {elder}. "[Of course|I would love to|Yes, let us begin]," said {elder}.
    [They washed their hands and put on aprons.|{elder} put on a #color# apron.|{hero} stood on a
    [stool|chair] to reach the table.]

    [{hero} counted the eggs. "One, two, three!"|{hero} stirred and stirred until {hero.his} arm was
    tired.|They mixed everything in a #size# bowl.] But then {elder} opened the [cupboard|jar|box]. "[Oh
    dear|Oh no]," said {elder}. "We have no {missing} left." #hero_sad# "[What can we do now?"|Now it will
    never be ready,"|We cannot make it without {missing},"] said {hero}.

    ["I know!" said {elder}. "Ask {neighbor} next door."|Then {hero} had an idea. "I can ask {neighbor}!"]
    {hero} ran [across the street|next door|over the grass|up the stairs] and knocked. "[Please, do you have
    some {missing}|May we have a little {missing}|Hello! Could you give us some {missing}]?" {hero.he}
    asked. {neighbor} smiled and filled a [cup|small jar| little bowl]. "[Here you are|Take as much as you
    need|That is what neighbors are for]," {neighbor.he} said. #thanks# said {hero}.

    Soon the {cake} was [done|ready]. The whole house smelled [good|sweet|wonderful]. [It was a bit
    [crooked|flat|brown on one side], but it tasted great.|It was the best {cake} they had ever
    made.|"[Mmm|Wow|Yum]," said {elder}, "you are a real cook."] {hero} took some of it to {neighbor}, [who
    ate every bit|and they sat and talked for a while|who laughed and said it was delicious]. #hero_happy#
    [It is good to share.|Things taste better when you share them.|"When we help each other, everyone eats
    well," said {elder}.|]
    """,
)

_NEW_FRIEND = Plot(
    slots={"game": ("tag", "hide and seek", "catch", "pirates", "hopscotch", "store", "marbles", "doctor")},
    text="""
    #time#, {hero} went to {place}. #weather# [{hero} brought a {color} {toy}.|{hero} had a {color} {toy}
    with {hero.him}.]

    [Near the [gate|bench|big tree|fence] sat a {friend.kind} whom {hero} did not know.|There was a
    {friend.kind} {hero.he} had never seen before.|A {friend.kind} stood all alone under a tree.]
    {friend.He} looked [shy|sad|lonely|bored]. {hero} [wanted to say hello, but {hero.he} was shy,
    too|thought for a moment|walked a little closer]. [What if the {friend.kind} did not want to play?|It is
    not easy to talk to someone new.|]

    Then {hero} took a deep breath. "[Hello|Hi], I am {hero}," {hero.he} said. "What is your name?"
    "{friend}," said the {friend.kind} [softly|in a quiet voice|and looked up]. "[We just moved here|I am
    new in town|We came here last week]. I do not know anyone yet." "[Now you know me|Well, you know me
    now|You know one person now]!" said {hero}. [{friend} smiled a little.|{friend} had to laugh.|{friend}'s
    face lit up.]

    "Do you want to play {game}?" asked {hero}. "[Yes, please|I love {game}|I do not know how]," said
    {friend}. ["I can teach you," said {hero}.|"Then let us start," said {hero}.|So they began.] They played
    {game} [until they were out of breath|all afternoon|again and again]. [{hero} won once, and {friend} won
    twice.|{friend} was very good at it.|They laughed so much that their bellies hurt.] [{friend} also liked
    the {toy}, and {hero} let {friend.him} have a turn.|Then they took turns with the {toy}.|] #snack#

    [When it was time to go home|When {elder} called|At dinner time], {friend} [waved|smiled|held out
    {friend.his} hand]. "[Will you come back tomorrow|Can we play again|Will I see you soon]?" {friend.he}
    asked. "[Yes|Of course|I promise]!" said {hero}. #friends_end# [A new friend can begin with a single
    hello.|Saying hello was the best thing {hero} did that day.|]
    """,
)

_GARDEN = Plot(
    text="""
    #once#

    In spring, {elder} gave {hero} a [tiny|small|little] seed. "[If you take care of it, it will grow|Plant
    it and wait|Give it water and time]," {elder} said. {hero} [dug a hole|made a small hole] in the
    [soft|dark|warm] earth, put the seed inside, and covered it up. [Then {hero.he} gave it some
    water.|"Sleep well, little seed," {hero.he} said.|{hero.He} put a [stick|stone] there so that nobody
    would step on it.]

    The next day, {hero} ran out to look. There was nothing. [The day after that, there was still
    nothing.|{hero} waited one day, two days, three days.|Every morning {hero.he} looked, and every morning
    there was only earth.] "[Maybe it does not like me|It will never grow|I think my seed is broken]," said
    {hero}. #hero_sad# "[Good things take time|Be patient|The seed is busy under the ground]," said {elder}.

    So {hero} [waited|kept on watering it]. [The sun shone, and the rain fell.|{hero.He} sang to it and
    pulled out the weeds.| {hero.He} chased the [snails|crows|goats] away.] And one #daytime#, there was a
    tiny green [leaf|shoot|tip]! #hero_happy# "[It is alive|Come and see|Look, {elder}, look]!" {hero.he}
    shouted.

    [Day by day|Week after week] it grew. [Soon it was as tall as {hero.his} knee.|It got one leaf, then
    two, then many.| First it was as tall as a cup, then as tall as {pet} the {pet.kind}.] By the end of
    summer, it was a #size# {vegetable}. [Everybody came to see it.|Even {neighbor} said, "I have never seen
    such a fine {vegetable}."|{friend} could not believe it had come from one small seed.] [{hero} showed it
    to {friend} and to {neighbor}.|They had a little party in the garden.|{hero} kept one seed for the next
    spring.] "[You were patient, and this is your reward|You took good care of it|Now you are a gardener],"
    said {elder}. #bedtime#
    """,
)

_KITE = Plot(
    slots={
        "tree": (
            "tree",
            "old oak",
            "apple tree",
            "pear tree",
            "tall birch",
            "top of a pine tree",
            "chestnut tree",
        ),
        "flyer": ("kite", "toy plane", "paper bird", "paper plane"),
    },
    text="""
    #time#, {hero} and {friend} went to {place}. The wind was [strong|just right|blowing hard]. {hero} had a
    [new|big| beautiful] {color} {flyer} [from {elder}|that {hero.he} had made with {elder}|with a long
    tail]. "[Look how high it goes| It is almost touching the clouds|Now it is my turn]!" cried {friend}.

    Then a [great|sudden|wild] wind came. [Whoosh!|Swish!|Whoo!] The {flyer} [flew out of {hero}'s
    hand|turned over and over| went up and up] and got stuck in the {tree}. [{hero} pulled, but it did not
    come down.|{hero} jumped, but it was too high. |They looked up. It was very high.] #hero_sad# "[It is my
    fault|I am sorry|I let go too soon]," said {friend}. "[It is nobody's fault|It was only the wind|Do not
    be sorry]," said {hero}.

    First they threw a [stick|ball|shoe], but it [missed|got stuck, too|fell into a puddle]. Then they
    [shook a branch|called to a bird|tried to climb], but [it did not help|that did not work|{hero.he} slid
    back down]. [A crow sat up there and looked at them.|{pet} the {pet.kind} {pet.sound}, but that did not
    help.|] "[We need something long|We need someone tall| We should ask for help]," said {friend}.

    Just then, {neighbor} came by with a [ladder|rake|long fishing pole|broom]. "[Do you two need a
    hand|What happened here| Why such long faces]?" {neighbor.he} asked. They told {neighbor.him}
    everything. {neighbor} [reached up|stretched as far as {neighbor.he} could|climbed up slowly] and
    [pulled|pushed] gently. [Down it came!|One, two, three, and it was free!] #thanks# said {hero}.

    [There was a small hole in it, but {elder} fixed it with tape.|It was not even broken.|It had lost a bit
    of its tail, but it still flew.] [This time they held the string together.|{hero} and {friend} flew it
    until the sun went down.|They let {neighbor} have a turn, and {neighbor.he} laughed like a child.]
    #hero_happy# [Two can hold on better than one.|It is always all right to ask for help.|#home#, tired and
    happy.|]
    """,
)

_BEACH = Plot(
    slots={
        "creature": ("crab", "starfish", "baby seal", "silver fish", "sea turtle", "jellyfish", "seagull"),
        "find": ("shells", "smooth stones", "feathers", "pieces of sea glass"),
        "trouble": (
            "far from the water",
            "caught in an old net",
            "stuck between two rocks",
            "trapped in a bucket",
        ),
    },
    text="""
    #time#, {elder} took {hero} and {friend} to the sea. #weather# [They ran over the warm sand.|The waves
    were [small|high| white] and [loud|gentle].|They took off their shoes.] {hero} built a sand castle with
    {number} towers, and {friend} looked for {find}. ["I found {number2}!" said {friend}.|{friend} found
    {number2} and put them into a #color# bucket.]

    Suddenly, {hero} saw something move. It was a [small|young|tired] {creature}, {trouble}. "[The poor
    thing|Oh, look|Come quickly]!" {hero} called. [It did not move much.|It looked at them with round
    eyes.|It looked scared.] "[It needs the water|We have to help it|It wants to go home]," said {friend}.

    {hero} wanted to [grab it|pull it out], but {elder} said, "[Slowly. It is afraid of us|Be gentle. We do
    not want to hurt it|Wait. Let us do this carefully]." [So {hero} sat very still.|So {hero} spoke softly
    to it. "We are your friends."|{hero} wet a towel, and {friend} cleared the way.] Together they [set it
    free|lifted it up with both hands] and carried it to the [edge of the water|waves|sea].

    [Splash!|For a moment it stayed there.|The {creature} felt the cool water.] Then it [was
    gone|disappeared into the blue sea |moved away with the next wave]. [{hero} waved.|"Goodbye, dear
    {creature}!" called {hero}.|"Stay safe!" called {friend}.] [A wave had washed the sand castle away, but
    {hero} did not mind.|Later they shared a #some_food# and watched the boats.|] "[You were very kind
    today|You saved a life today|I am proud of both of you]," said {elder}. #hero_happy# #home#. #bedtime#
    """,
)

CHILDREN_PLOTS = (_LOST_TOY, _RAINY_DAY, _BAKING, _NEW_FRIEND, _GARDEN, _KITE, _BEACH)
