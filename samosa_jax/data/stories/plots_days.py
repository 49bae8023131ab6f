"""Plots about one day or a few: a snowman, a picnic, a night in a tent, a found pet, a school play."""

from samosa_jax.data.stories.fragments import Plot

_SNOWMAN = Plot(
    slots={
        "nose": ("a carrot", "a pine cone", "an old spoon", "a red pepper", "a cork"),
        "eyes": ("two buttons", "two black stones", "two nuts", "two bottle caps"),
        "snowname": ("Mr. Frost", "Captain Snow", "Sir Chill", "Lady Winter", "Snowy", "Doctor Ice"),
    },
    text="""
    One winter morning, {hero} looked out of the window. Everything was white! [The roofs were white, and
    the trees were white.| Snow lay on the [fence|car|roof] like [sugar|a thick blanket|whipped cream].|Not
    a sound could be heard.] "[Snow|It snowed|Wake up, {elder}]!" {hero} shouted. {hero.He} put on
    {hero.his} {color} coat, {hero.his} boots, and {hero.his} #color# [hat|scarf| mittens], and ran outside.
    {friend} was already there.

    They rolled a big ball of snow, then a smaller one, and then a very small one. "[One for the feet, one
    for the belly, one for the head|Push|It is heavy]!" said {friend}. [The second ball was so heavy that
    {neighbor} had to help.|{pet} the {pet.kind} {pet.sound} and ran in circles.|Their cheeks grew red, and
    their noses were cold.] They gave the snowman {nose} for a nose and {eyes} for eyes. {hero} put
    {hero.his} own hat on its head. "Hello, {snowname}," {hero.he} said.

    [All week long, they visited {snowname} after school.|Every morning they said good day to {snowname}.]
    But then the sun came out. It grew warmer, and {snowname} grew [smaller|thinner]. #hero_sad# "[Can we
    not put a roof over it?|I do not want it to melt,|Make it stay,]" {hero} said to {elder}. "[Snow turns
    into water, and water goes into the ground|Nothing stays for ever|It is only going on a journey]," said
    {elder}. "[In spring, the flowers will drink it|It will come back as rain|And next winter, it falls from
    the sky again]."

    In spring, {hero} found [a yellow flower|three blue flowers|a tiny green tree] where {snowname} had
    stood. Next to it lay {nose}. "[Is that you|I know who you are|Welcome back], {snowname}," said {hero},
    and [gave it some water|laughed|took off {hero.his} hat]. #hero_happy# [And {hero} could not wait for
    the next winter.|"See you next year," said {friend}.|]
    """,
)

_PICNIC = Plot(
    slots={
        "thief": ("squirrel", "goose", "crow", "goat", "raccoon", "duck"),
        "treat": ("sandwiches", "cookies", "grapes", "pancakes", "cheese rolls", "strawberries"),
    },
    text="""
    #time#, {hero} and {friend} had a picnic {place.at}. They brought a {color} blanket, {number} {treat},
    and a bottle of [lemonade|apple juice| cold milk]. #weather# "[I am so hungry|Let us eat|This looks
    good]," said {friend}. But first they [played with a #some_toy#|picked flowers| looked for bugs].

    When they came back, there were only two {treat} left. "[Did you eat them|Who took our {treat}|I am sure
    there were more]?" asked {hero}. "[I did not|It was not me|I was with you the whole time]," said
    {friend}. [For a moment they were angry with each other.|They looked at each other in silence.] Then
    {hero} saw something on the blanket. "[Look, footprints!|There are crumbs here!|What is this?]" said
    {hero}.

    They followed the crumbs [around the tree|behind a bush|over the grass|past a bench]. There sat a fat
    little {thief} with [crumbs on its face|its mouth full|one of the {treat}]. It looked at them, and they
    looked at it. [Then it went on eating.|It did not even run away.] {friend} began to laugh, and {hero}
    laughed, too. "[We should have asked you to our picnic|You must have been very hungry|Good day, thief],"
    said {hero}.

    "I am sorry that I thought it was you," said {hero}. "[I thought it was you, too|I am sorry, too|Let us
    never fight about {treat}]," said {friend}. They shared what was left, one for {hero} and one for
    {friend}. [The {thief} watched them from far away.|It was not much, but it tasted wonderful.] [Next time
    they packed a little extra, just in case.|"Next time, somebody has to guard the blanket," said
    {friend}.|From then on, they called the {thief} "Boss."] #hero_happy#
    """,
)

_TENT = Plot(
    slots={"noise": ("Hoo, hoo", "Crack, crack", "Shh, shh", "Scratch, scratch", "Thump, thump")},
    text="""
    #once#

    #time#, {elder} put up a {color} tent {place.at}. "[Tonight we sleep outside|No beds tonight|Tonight the
    sky is our roof]," said {elder}. {hero} brought {hero.his} pillow, a flashlight, and {hero.his} {toy}.
    {friend} came, too. [They cooked soup over a little fire.|They sat by the fire and sang songs.|They ate
    a #some_food# each and counted the stars.]

    In the middle of the night, {hero} woke up. "{noise}," it went outside. {hero} [sat up|lay very
    still|pulled up the blanket]. "{friend}, [are you awake|did you hear that]?" {hero.he} whispered. "[I
    hear it, too.|What is it?|Is it a bear?]" whispered {friend}. "{noise}," it went again. [Something moved
    behind the cloth of the tent.|There was a big shadow on the wall.|Their hearts beat like drums.]

    {hero} took the flashlight. {hero.His} hand was shaking. [{hero.He} counted to three.|"I will look,"
    {hero.he} said.] {hero.He} opened the tent a tiny bit and turned on the light. There stood {pet} the
    {pet.kind}, [with a shoe in {pet.his} mouth|wet and happy|looking for a warm place]. "It is only {pet}!"
    cried {hero}. {pet} {pet.sound} and {pet.is_glad}. [{elder} woke up and asked what was going
    on.|{friend} laughed so hard that {friend.he} fell over.|They laughed until the owls flew away.]

    {pet} slept between them, and nobody was afraid anymore. [In the morning, there was dew on the grass,
    and the birds were singing.|When they opened their eyes, the sun was already up.] "[Most scary things
    are small when you shine a light on them|You were brave|A noise is just a noise]," said {elder}.
    #hero_happy# "Can we do it again tonight?" asked {hero}.
    """,
)

_FOUND_DOG = Plot(
    slots={
        "trail": (
            "a blue collar",
            "a bell around {pet.his} neck",
            "a little silver tag",
            "one white paw",
            "a torn ribbon",
        )
    },
    text="""
    #once# More than anything, {hero} wished for a {pet.kind}.

    #time#, on the way home from school, {hero} heard #heard#. Under a [bench|bush|bridge|cart] sat a
    {pet.kind}, [wet and thin|all alone|cold and hungry]. {pet.He} had {trail}. {hero} held out a hand.
    "[Come here, little one|Do not be afraid|You poor thing]," {hero.he} said. The {pet.kind} [came closer,
    step by step|{pet.sound} softly|looked up at {hero.him}]. {hero} gave {pet.him} the rest of {hero.his}
    lunch.

    "Can I keep {pet.him}?" {hero} asked {elder}. {elder} thought about it. "[Somebody may be looking for
    {pet.him}|What if {pet.he} has a home|First we must ask around]," {elder_he} said. {hero} did not want
    to hear that, but {hero.he} knew it was true. So they made {number} signs and put them up [at the
    bakery, at the school, and at the station|all over town]. [One day passed, and then two.|Every day
    {hero} and the {pet.kind} played together.]

    Then {neighbor} knocked at the door. "{pet}!" {neighbor.he} cried. The {pet.kind} ran to {neighbor.him}
    and {pet.is_glad}. "[I looked for {pet.him} everywhere|I thought I would never see {pet.him} again|{pet}
    ran away in the storm]." #hero_sad# But {hero} also saw how happy {neighbor} was. "[Goodbye, {pet}|Take
    good care of {pet.him}|{pet} likes it when you scratch {pet.his} ears]," {hero} said quietly.

    {neighbor} looked at {hero} for a while. "[I am old, and my legs are tired|I work all day|I cannot run
    as fast as {pet}]," {neighbor.he} said. "[Would you like to visit {pet} after school|Could you take
    {pet} out every day|Will you help me with {pet.him}]?" "Yes!" shouted {hero}. So from that day on,
    {hero} [came every afternoon|had a {pet.kind} and a new friend|and {pet} ran through the meadow
    together]. #hero_happy# [Doing the right thing can be hard, and still turn out well.|{pet} had two homes
    now.|]
    """,
)

_PLAY = Plot(
    slots={
        "role": (
            "a tree",
            "the moon",
            "a sheep",
            "the wind",
            "a small mushroom",
            "the back half of a horse",
            "a cloud",
        ),
        "lead": ("king", "queen", "dragon", "captain", "wizard"),
    },
    text="""
    #time#, {neighbor}, the teacher, said, "[We are going to do a play|Our class will put on a play|There
    will be a play at the end of the month]." Everyone cheered. {hero} wanted to be the {lead}. [At home
    {hero.he} practiced in front of the mirror.|{hero.He} already knew all the words.|"I will be the best
    {lead} ever," {hero.he} told {elder}.] But {neighbor} gave that part to {friend}. {hero} was {role}.

    #hero_sad# "[That is nothing|I do not have a single word to say|Nobody will even see me]," {hero} said
    to {elder}. "[A play needs everybody|There are no small parts|Be the best one there ever was]," said
    {elder}. So {hero} [made a costume of #color# paper|practiced standing still|thought about what {role}
    would do]. It was more fun than {hero.he} had thought.

    The big evening came. [The room was full of people.|{elder} sat in the first row.|The lights went out,
    and everybody was quiet.] {friend} walked to the middle of the stage, opened {friend.his} mouth, and
    [said nothing|stopped]. {friend.He} had forgotten the words! [It was so quiet that you could hear the
    clock.|{friend}'s face turned red.|Somebody coughed.] {hero} stood close by and knew every word.
    {hero.He} whispered, so softly that only {friend} could hear it. "[Who goes there in the night|I have
    come from far away|Listen to me, my people]!" {friend} [smiled|took a deep breath|nodded] and said it
    out loud.

    After that, everything went well. [The people clapped for a long time.|At the end, everyone stood up and
    clapped.] "You saved me," said {friend}, and pulled {hero} to the front of the stage. "[This is the real
    hero of the play|Clap for {hero}, too|I could not have done it alone]," {friend.he} said. #hero_happy#
    "[That was the best part of all|I told you there are no small parts|I am so proud of you]," said
    {elder}. #friends_end#
    """,
)

DAY_PLOTS = (_SNOWMAN, _PICNIC, _TENT, _FOUND_DOG, _PLAY)
