"""Plots that count, share, tell the truth, try again and care for somebody."""

from samosa_jax.data.stories.fragments import Plot

_SHARING = Plot(
    text="""
    #once#

    #time#, {hero} had {total} {treasure.many}. [They were a gift from {neighbor}.|{elder} had given them to
    {hero.him}.| {hero.He} kept them in a #color# [bag|box|basket].] [{hero} counted them twice.|"{total},"
    {hero.he} counted. "All mine!"| {hero} put them in a row and looked at them.] Then {friend} came by.
    {friend.He} had no {treasure.many} at all. "[You have so many, {hero},"|How pretty they are,
    {hero},"|May I have some, {hero}?"] {friend.he} said.

    [{hero} did not want to share.|{hero} held them close. "They are mine," {hero.he} said.|{hero} pretended
    not to hear.] {friend} [went away|nodded and walked off|sat down far away]. Now {hero} had {total}
    {treasure.many}, but [it was no fun alone|nobody to play with|the game was not fun anymore]. #hero_sad#
    "[What is wrong|Why are you so quiet|Where is {friend}]?" asked {elder}. {hero} told {elder} what had
    happened. "[Would you rather have {total} {treasure.many} or a friend|What do you think you could do|How
    do you think {friend} feels]?" asked {elder}.

    {hero} ran after {friend}. "[Wait|I am sorry|Come back], {friend}!" {hero.he} called. "I have {total}.
    If I give you {given}, I still have {rest}." {hero.He} counted {given} {given_treasure} into {friend}'s
    hand. {friend} [smiled|beamed|could not believe it]. #thanks# said {friend}. [{hero} still had {rest},
    and {rest} was enough.|{given} and {rest} make {total}, and two friends make a game.]

    They played [store|a counting game|a new game] with the {treasure.many} [until dinner|all #season#
    long|all day]. #hero_happy# [Sharing made the {treasure.many} even better.|"It is more fun with two,"
    said {hero}.|{elder} saw them through the window and smiled.] #friends_end#
    """,
)

_TRUTH = Plot(
    slots={
        "vase": ("vase", "window", "cup", "flower pot", "lamp", "picture frame", "plate", "mirror"),
        "deed": (
            "threw a ball inside",
            "ran through the room",
            "danced on the chair",
            "jumped from the sofa",
            "played with a stick",
        ),
    },
    text="""
    #time#, {hero} was alone in the living room. {elder} had said, "[Please play gently|No wild games in the
    house|Be careful in there]." But {hero} was [bored|full of energy|not thinking about that]. {hero.He}
    {deed}. [Crash!|Bang!|Clink!] The #color# {vase} was broken.

    {hero} [stood very still|held {hero.his} breath|looked at the pieces]. It was {elder}'s favorite {vase}.
    [Just then, {pet} the {pet.kind} walked in.|{pet} the {pet.kind} looked up from {pet.his} {pet.bed}.]
    "What was that noise?" called {elder}. [{hero} did not know what to say.|{hero}'s face grew hot.] "It
    was {pet}," {hero.he} said quickly. {elder} looked at {pet}. "[Bad {pet.kind}|Oh, {pet}|Then {pet} must
    go outside]," {elder} said, and [took {pet} out|sent {pet} away]. {pet} looked back with big, sad eyes.

    #hero_sad# [{hero} could not eat.|At dinner, {hero} did not say a word.|{hero} tried to read a book, but
    {hero.he} only saw {pet}'s eyes.] [{pet} had done nothing wrong.|It was not fair to {pet}.] At last
    {hero} went to {elder}. "[I have to tell you something|It was not {pet}|I did not tell the truth],"
    {hero.he} said. "I {deed}. I broke it. I am sorry."

    {elder} was quiet for a moment. "[I am sad about the {vase}|A {vase} can be fixed or bought|Things
    break]," {elder_he} said, "but [I am glad that you told me the truth|I am proud that you told me|it
    takes courage to say that]." [{hero} felt as light as a feather.|It was as if a stone had rolled off
    {hero}'s heart.] They [glued the pieces together|swept up the pieces]. Then {hero} ran outside and
    hugged {pet}. "I am sorry, {pet}," {hero.he} said. {pet} {pet.sound} and {pet.is_glad}. [The truth is
    not always easy, but it feels better.|From then on, {hero} told the truth, even when it was hard.|]
    """,
)

_TRY_AGAIN = Plot(
    slots={
        "skill": (
            "ride a bike",
            "swim",
            "whistle",
            "tie {hero.his} shoes",
            "skate",
            "climb a rope",
            "juggle",
            "play the flute",
            "write {hero.his} name",
            "jump rope",
            "row a boat",
            "bake bread",
        ),
    },
    text="""
    #once# But there was one thing {hero} could not do. {hero.He} could not {skill}. [{friend} could do it.
    {neighbor} could do it. Everybody could do it.|All {hero.his} friends could.|"Come and {skill} with us,"
    said {friend}, but {hero} shook {hero.his} head.]

    #time#, {hero} tried. It went wrong. {hero.He} tried again. It went wrong again. "[I will never learn
    it|It is too hard|I give up]!" {hero.he} shouted. #hero_sad# {elder} sat down next to {hero.him}. "[Do
    you know how often I tried when I was little|When I was your age, I could not do it, either|You cannot
    do it yet]," said {elder}. "[Yet is a very important word|Every time you try, you get a little better|A
    hundred times, and then it worked]."

    So {hero} practiced. On Monday, it was [terrible|a mess|very bad]. On Tuesday, it was [not much better|a
    little better|still bad]. On Wednesday, [{hero.he} wanted to stop, but {friend} cheered for
    {hero.him}|{friend} came to help|{hero.he} nearly did it]. [On Thursday it rained, and {hero} practiced
    anyway.|On Thursday, {hero.he} was tired, but {hero.he} did not give up.] And on Friday, [something felt
    different|{hero} took a deep breath|it was quiet and {hero} was calm].

    "[Look|Look, {elder}|I can do it]!" {hero} called. {hero.He} could {skill}! [{elder} clapped.|{friend}
    cheered so loudly that {pet} the {pet.kind} {pet.sound}.|{neighbor} called "Bravo!" from the window.]
    #hero_happy# "[How did you do that|What is your secret]?" asked {friend}. "[I just did not stop|I tried
    one more time than I failed|I practiced every day]," said {hero}. [The next day, {hero} saw a small
    {small_kind} who could not {skill}. "Not yet," said {hero}, and smiled. "Come, I will help you."| Now
    {hero} wanted to learn something new.|]
    """,
)

_SICK_FRIEND = Plot(
    slots={
        "gift": (
            "a card with {number} hearts",
            "a #color# flower",
            "a little book",
            "a drawing of {pet}",
            "a jar of soup",
            "a bag of {fruit}",
        ),
        "ill": ("a cold", "a fever", "a sore throat", "a broken leg", "a bad cough"),
    },
    text="""
    #time#, {hero} waited for {friend} {place.at}. [{hero} waited and waited.|{hero} looked down the road.]
    But {friend} did not come. [Then {neighbor} walked by.|So {hero} asked {neighbor}.] "[Have you not
    heard|Do you not know]? {friend} has {ill} and must stay in bed," said {neighbor}. #hero_sad#

    "[{friend} must be bored|I want to cheer {friend.him} up|We have to do something]," {hero} said to
    {elder}. They thought about it. "[What does {friend} like|What would make you happy if you were sick|A
    visit is the best medicine]," said {elder}. {hero} had an idea. [All morning {hero.he} worked at the
    table.|{hero.He} got paper, glue, and #color# paint.|It took a long time, but {hero} did not mind.] Soon
    {hero.he} had {gift} and a #color# ribbon.

    {hero} walked #walk#. {friend}'s mother opened the door. "[How nice of you to come|{friend} will be so
    happy|Come in, but be quiet]," she said. {friend} lay in bed with a [pale|red|sleepy] face.
    "[Surprise|Hello, {friend}|Look what I brought]!" said {hero}. [{friend} sat up at once.|{friend}'s eyes
    grew wide.|For the first time that day, {friend} smiled.] "[Is that for me?|You came!|I thought everyone
    had forgotten me.]" said {friend}.

    {hero} [read {friend.him} a story|told {friend.him} all the news|played a quiet game with {friend.him}].
    They laughed so much that {friend} forgot about being sick. "[I feel better already|You are better than
    medicine|Please come again tomorrow]," said {friend}. And {hero} came the next day, and the day after
    that. [After {number} days, {friend} was well again.|By the end of the week, {friend} could play outside
    again.] #hero_happy# #friends_end#
    """,
)

_MARKET = Plot(
    slots={"coin": ("coin", "penny", "silver coin")},
    text="""
    #time#, {elder} sent {hero} to the market. "[Please buy|We need|Bring me] {total} {fruit}," said
    {elder}, "and hurry back." {hero} took a #color# basket and walked #walk#. #weather#

    At the market there was so much to see. [A man sold #color# hats.|A woman played the violin.|There were
    cakes and fish and flowers.|A parrot said "Good morning" to everybody.] {hero} found the fruit stand of
    {neighbor}. "[Good morning|Hello], {hero}. What would you like?" asked {neighbor}. "{total} {fruit},
    please," said {hero}. {neighbor} counted them into the basket.

    On the way home, {hero} met {friend}, who looked hungry. "[I forgot my lunch|I have not eaten since
    breakfast|My stomach is empty]," said {friend}. {hero} looked into the basket. [{hero} knew what to
    do.|{hero} did not think twice.] {hero.He} gave {friend} {given} of the {fruit}. #thanks# said {friend}.
    But now {hero} had only {rest}. [Would {elder} be angry?|What would {elder} say?|{hero} walked slowly
    and thought about it.]

    At home, {elder} counted. "{rest}," {elder_he} said. "I asked for {total}. Where are the other {fruit}?"
    {hero} told the whole story. {elder} [smiled|put a hand on {hero}'s head|gave {hero.him} a hug].
    "{total} take away {given} is {rest}," said {elder}, "and [a kind heart is worth more than {fruit}|one
    happy friend makes up for it|that is exactly enough]." Then there was a knock at the door. It was
    {friend} with a #some_food# [for both of them|from {friend.his} grandmother|to say thank you].
    #hero_happy# [What you give away often comes back.|They ate it together at the kitchen table.|Kindness
    is easy to carry.]
    """,
)

LESSON_PLOTS = (_SHARING, _TRUTH, _TRY_AGAIN, _SICK_FRIEND, _MARKET)
