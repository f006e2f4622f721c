"""Facts and wordings of the unseen tasks that are written for this project."""

from __future__ import annotations

# Known to many, with one capital that nobody disputes.
COUNTRIES = (
    "Afghanistan, Albania, Algeria, Angola, Argentina, Armenia, Australia, Austria, Azerbaijan, Bahamas, "
    "Bangladesh, Barbados, Belarus, Belgium, Bhutan, Botswana, Brazil, Bulgaria, Cambodia, Cameroon, "
    "Canada, Chad, Chile, China, Colombia, Costa Rica, Croatia, Cuba, Cyprus, Denmark, Dominican Republic, "
    "Ecuador, Egypt, Estonia, Ethiopia, Fiji, Finland, France, Gabon, Georgia, Germany, Ghana, Greece, "
    "Haiti, Honduras, Hungary, Iceland, India, Indonesia, Iran, Iraq, Ireland, Italy, Jamaica, Japan, "
    "Jordan, Kazakhstan, Kenya, Laos, Latvia, Lebanon, Liberia, Libya, Lithuania, Madagascar, Malawi, "
    "Malaysia, Mali, Malta, Mauritania, Moldova, Morocco, Mozambique, Namibia, Nepal, Netherlands, New "
    "Zealand, Nicaragua, Niger, Nigeria, North Korea, Norway, Oman, Pakistan, Paraguay, Peru, Philippines, "
    "Poland, Portugal, Qatar, Romania, Russia, Rwanda, Saudi Arabia, Senegal, Serbia, Slovakia, Slovenia, "
    "Somalia, South Korea, Spain, Sudan, Sweden, Switzerland, Syria, Taiwan, Thailand, Togo, Tunisia, "
    "Uganda, Ukraine, United Kingdom, United States, Uruguay, Venezuela, Vietnam, Yemen, Zambia, Zimbabwe"
)
# Said with an article.
ARTICLE = {"Bahamas", "Dominican Republic", "Netherlands", "Philippines", "United Kingdom", "United States"}
# On two continents, or on one that has its own name.
TWO_CONTINENTS = {"Armenia", "Australia", "Azerbaijan", "Cyprus", "Egypt", "Georgia", "Kazakhstan", "Russia"}

WORDINGS = {
    "capitals": (
        "What is the capital city of {0}?",
        "Which city is the capital of {0}?",
        "Do you know the capital of {0}?",
        "I forgot the capital of {0}. What is it called?",
        "Name the capital of {0}, please.",
    ),
    "countries": (
        "{0} is the capital of which country?",
        "Which country has {0} as its capital?",
        "I am flying to {0}. What country is that in?",
        "In what country would I find the city of {0}?",
    ),
    "continents": (
        "Which continent is {0} on?",
        "On what continent will I find {0}?",
        "My friend moved to {0}. Which continent does she live on now?",
        "What continent does {0} belong to?",
    ),
    "languages": (
        "What is the official language of {0}?",
        "Which language is the official one in {0}?",
        "I need the official language of {0} for a form. Which is it?",
        "Name the official language of {0}, please.",
    ),
    "currencies": (
        "What is the currency of {0}?",
        "Which currency is used in {0}?",
        "I am going to {0}. What is the money there called?",
        "Which currency do people in {0} pay with?",
    ),
    "opposites": (
        'What is the opposite of "{0}"?',
        'Give me an antonym of "{0}".',
        'Which word means the reverse of "{0}"?',
        'If something is not "{0}", what is it instead? Name the opposite word.',
    ),
}

OPPOSITES = (
    "hot cold|cool|chilly, big small|little|tiny, fast slow|slowly, tall short, early late, happy "
    "sad|unhappy, light dark|heavy, rich poor, strong weak, young old, clean dirty|unclean, hard soft|easy, "
    "wet dry, full empty, open closed|close|shut, up down, left right, in out, day night, black white, good "
    "bad|evil, right wrong|left, true false|untrue, wide narrow, deep shallow, loud quiet|silent|soft, "
    "noisy quiet|silent, sharp blunt|dull, thick thin, near far|distant, high low, long short, safe "
    "dangerous|unsafe, brave cowardly|afraid|coward|fearful|timid, win lose, begin end|finish|stop, start "
    "stop|end|finish, buy sell, give take|receive, push pull, love hate|hatred, friend enemy|foe, war "
    "peace, life death, birth death, summer winter, north south, east west, success failure, victory "
    "defeat|loss, increase decrease|reduce, add subtract|remove, accept reject|refuse|decline, remember "
    "forget, laugh cry|weep, arrive leave|depart, ascend descend, expand contract|shrink, hero villain, "
    "ancient modern|new, polite rude|impolite, smooth rough, tight loose, cheap expensive|costly, simple "
    "complex|complicated|difficult, possible impossible, first last, always never, before after, above "
    "below|beneath|under, inside outside, more less|fewer, maximum minimum, guilty innocent, generous "
    "stingy|selfish|greedy, awake asleep|sleeping, alive dead, beautiful ugly, absent present, future past, "
    "entrance exit, question answer, attack defend|defense|defence, lend borrow"
)

# QUESTION=right/wrong
EITHER_OR = (
    "Is ice hot or cold?=cold/hot; Is fire hot or cold?=hot/cold; Is a stone hard or soft?=hard/soft; Is a "
    "pillow hard or soft?=soft/hard; Is sugar sweet or sour?=sweet/sour; Is a lemon sweet or "
    "sour?=sour/sweet; Is an elephant large or small?=large/small; Is an ant large or small?=small/large; "
    "Is the ocean wet or dry?=wet/dry; Is a desert wet or dry?=dry/wet; Is a feather light or "
    "heavy?=light/heavy; Is an anvil light or heavy?=heavy/light; Is a turtle fast or slow?=slow/fast; Is a "
    "cheetah fast or slow?=fast/slow; Is a whisper loud or quiet?=quiet/loud; Is thunder loud or "
    "quiet?=loud/quiet; Is midnight dark or bright?=dark/bright; Is the sun dark or bright?=bright/dark; Is "
    "glass fragile or tough?=fragile/tough; Is a needle sharp or blunt?=sharp/blunt; Is a carrot a "
    "vegetable or an animal?=vegetable/animal; Is a rabbit a vegetable or an animal?=animal/vegetable; Is a "
    "violin an instrument or a vehicle?=instrument/vehicle; Is a truck an instrument or a "
    "vehicle?=vehicle/instrument; Is an apple a fruit or a tool?=fruit/tool; Is a hammer a fruit or a "
    "tool?=tool/fruit; Is a rose a flower or a metal?=flower/metal; Is copper a flower or a "
    "metal?=metal/flower; Is a salmon a fish or a bird?=fish/bird; Is a sparrow a fish or a "
    "bird?=bird/fish; Is a spider an insect or an arachnid?=arachnid/insect; Is a butterfly an insect or a "
    "mammal?=insect/mammal; Is a whale a mammal or a fish?=mammal/fish; Is a shark a mammal or a "
    "fish?=fish/mammal; Is a frog an amphibian or a reptile?=amphibian/reptile; Is a crocodile an amphibian "
    "or a reptile?=reptile/amphibian; Is the Moon a star or a satellite?=satellite/star; Is the Sun a star "
    "or a planet?=star/planet; Is Jupiter a star or a planet?=planet/star; Does the sun rise in the east or "
    "in the west?=east/west; Does the sun set in the east or in the west?=west/east; Do fish breathe with "
    "gills or with lungs?=gills/lungs; Do dogs breathe with gills or with lungs?=lungs/gills; Is winter "
    "warm or chilly?=chilly/warm; Is a skyscraper tall or short?=tall/short; Is steel strong or "
    "weak?=strong/weak; Is a diamond hard or soft?=hard/soft; Is honey sweet or salty?=sweet/salty; Is sea "
    "water sweet or salty?=salty/sweet; Is a tortoise a reptile or a mammal?=reptile/mammal; Is a cow a "
    "herbivore or a carnivore?=herbivore/carnivore; Is a lion a herbivore or a "
    "carnivore?=carnivore/herbivore; Is oxygen a gas or a solid at room temperature?=gas/solid; Is iron a "
    "gas or a solid at room temperature?=solid/gas; Is Mozart known as a composer or as a "
    "painter?=composer/painter; Is Picasso known as a composer or as a painter?=painter/composer; Is a mile "
    "longer or shorter than a kilometre?=longer/shorter; Is an inch longer or shorter than a "
    "metre?=shorter/longer; Is a mountain high or low?=high/low; Is a valley high or low?=low/high; Is wool "
    "warm or cool to wear?=warm/cool; Is a ball round or square?=round/square; Is a chessboard round or "
    "square?=square/round; Is a kettle found in a kitchen or in a garage?=kitchen/garage; Is a car parked "
    "in a kitchen or in a garage?=garage/kitchen; Do owls hunt at night or at noon?=night/noon; Is lunch "
    "eaten at midnight or at noon?=noon/midnight; Is Spain in Europe or in Asia?=europe/asia; Is Japan in "
    "Europe or in Asia?=asia/europe; Is bread made from flour or from sand?=flour/sand; Is glass made from "
    "flour or from sand?=sand/flour; Is cheese made from milk or from wheat?=milk/wheat; Is pasta made from "
    "milk or from wheat?=wheat/milk; Is a guitar played with the hands or with the feet?=hands/feet; Do we "
    "hear with our ears or with our eyes?=ears/eyes; Do we see with our ears or with our eyes?=eyes/ears; "
    "Is a pilot's work to fly planes or to bake bread?=fly|planes/bake|bread; Is a baker's work to fly "
    "planes or to bake bread?=bake|bread/fly|planes; Does a bicycle have two or four wheels?=two|2/four|4; "
    "Does a car have two or four wheels?=four|4/two|2"
)

# QUESTION=answer|answer
PEOPLE = (
    "Who wrote Romeo and Juliet?=Shakespeare; Who is the author of Pride and Prejudice?=Austen; Who wrote "
    "the novel 1984?=Orwell; Which writer created Sherlock Holmes?=Conan Doyle|Arthur Doyle; Who is the "
    "author of the Harry Potter books?=Rowling; Who wrote The Lord of the Rings?=Tolkien; Which author "
    "wrote Oliver Twist?=Dickens; Who wrote War and Peace?=Tolstoy; Who wrote The Adventures of Tom "
    "Sawyer?=Twain|Clemens; Who wrote the novel Frankenstein?=Shelley; Who is the author of "
    "Moby-Dick?=Melville; Who wrote The Odyssey?=Homer; Who wrote Don Quixote?=Cervantes; Who wrote The Old "
    "Man and the Sea?=Hemingway; Who wrote the poem The Raven?=Poe; Which author wrote The Great "
    "Gatsby?=Fitzgerald; Who wrote To Kill a Mockingbird?=Lee; Who wrote Crime and "
    "Punishment?=Dostoevsky|Dostoyevsky; Who wrote The Divine Comedy?=Dante; Who wrote Jane Eyre?=Bronte; "
    "Who painted the Mona Lisa?=Leonardo|da Vinci; Who painted The Starry Night?=Gogh; Who painted the "
    "ceiling of the Sistine Chapel?=Michelangelo; Which artist painted Guernica?=Picasso; Who painted Girl "
    "with a Pearl Earring?=Vermeer; Who painted The Scream?=Munch; Which painter made The Persistence of "
    "Memory?=Dali; Who painted the Water Lilies series?=Monet; Who developed the theory of general "
    "relativity?=Einstein; Who formulated the three laws of motion?=Newton; Who proposed evolution by "
    "natural selection?=Darwin|Wallace; Who discovered penicillin?=Fleming; Who discovered radium?=Curie; "
    "Who invented the telephone?=Bell|Meucci; Who is credited with inventing the light bulb?=Edison|Swan; "
    "Who invented the printing press in Europe?=Gutenberg; Who invented dynamite?=Nobel; Who built the "
    "first successful airplane?=Wright; Which two brothers made the first powered flight?=Wright; Who was "
    "the first person to walk on the Moon?=Armstrong; Who was the first human in space?=Gagarin; Who was "
    "the first president of the United States?=Washington; Which US president ended slavery with the "
    "Emancipation Proclamation?=Lincoln; Who was the British prime minister during most of World War "
    "II?=Churchill; Who led India's nonviolent struggle for independence?=Gandhi; Who gave the speech \"I "
    'Have a Dream"?=King; Which South African leader spent 27 years in prison?=Mandela; Who reached the '
    "Americas by ship in 1492?=Columbus; Whose expedition was first to sail around the "
    "world?=Magellan|Elcano; Who crossed the Alps with elephants?=Hannibal; Which French emperor lost the "
    "battle of Waterloo?=Napoleon; Who composed the Ninth Symphony with the Ode to Joy?=Beethoven; Who "
    "composed The Four Seasons?=Vivaldi; Who composed the opera The Magic Flute?=Mozart; Who composed the "
    "ballet Swan Lake?=Tchaikovsky; Who founded Microsoft together with Paul Allen?=Gates; Who founded "
    "Apple together with Steve Wozniak?=Jobs; Who founded Facebook?=Zuckerberg; Who invented the World Wide "
    "Web?=Berners Lee; Who put the Sun in the centre of the planets in 1543?=Copernicus; Which scientist "
    "found four moons of Jupiter with a telescope in 1610?=Galileo|Galilei; Who discovered that germs cause "
    "disease and invented pasteurization?=Pasteur; Who founded psychoanalysis?=Freud; Which Greek "
    "philosopher taught Alexander the Great?=Aristotle; Who was Plato's teacher?=Socrates"
)

GENERAL = (
    "Which planet is called the Red Planet?=Mars; Which planet is the largest in our solar system?=Jupiter; "
    "Which planet is known for its rings?=Saturn; What gas do plants take in from the air for "
    "photosynthesis?=carbon dioxide|CO2; Which gas do humans need to breathe?=oxygen; What is H2O commonly "
    "called?=water; What is the chemical formula of table salt?=NaCl; What is frozen water called?=ice; "
    "Which organ pumps blood through the body?=heart; Which organ do we think with?=brain; What do we "
    "breathe with, which organs?=lungs|lung; What is the largest ocean on Earth?=Pacific; What is the "
    "tallest mountain in the world?=Everest; Which river flows through Egypt?=Nile; Which is the largest "
    "continent?=Asia; On which continent is the Sahara?=Africa; Which country is home to the Great "
    "Wall?=China; Which country gave the Statue of Liberty to the United States?=France; In which city is "
    "the Eiffel Tower?=Paris; In which city is the Colosseum?=Rome; In which city is Big Ben?=London; In "
    "which country are the pyramids of Giza?=Egypt; In which country is the Taj Mahal?=India; In which US "
    "city is the Golden Gate Bridge?=San Francisco; Which animal is called the king of the jungle?=lion; "
    "What is the largest animal on Earth?=whale; What is the fastest land animal?=cheetah; Which animal has "
    "a trunk and tusks?=elephant; Which animal has the longest neck?=giraffe; Which insect makes "
    "honey?=bee|bees|honeybee|honeybees; What do caterpillars turn into?=butterfly|butterflies|moth|moths; "
    "Which bird cannot fly and lives in Antarctica?=penguin|penguins; What do bees collect from "
    "flowers?=nectar|pollen; What is the main ingredient of bread?=flour|wheat; Which fruit is wine made "
    "from?=grape|grapes; What is cheese made of?=milk; What drink is made from roasted beans?=coffee; Which "
    "instrument has 88 keys?=piano; How many days are there in a week?=7|seven; How many months are there "
    "in a year?=12|twelve; How many hours does a day have?=24|twenty four; How many minutes are in an "
    "hour?=60|sixty; How many legs does a spider have?=8|eight; How many legs does an insect have?=6|six; "
    "How many sides does a triangle have?=3|three; How many sides does a hexagon have?=6|six; How many "
    "continents are there on Earth?=7|seven; How many letters does the English alphabet have?=26|twenty "
    "six; How many states are in the USA?=50|fifty; How many players of one team are on the field in "
    "soccer?=11|eleven; At how many degrees Celsius does water boil?=100|one hundred|hundred; At how many "
    "degrees Celsius does water freeze?=0|zero; What force pulls things towards the "
    "Earth?=gravity|gravitational; What star is at the centre of our solar system?=Sun; What does a "
    "thermometer measure?=temperature; What instrument shows which way is north?=compass; What do we call a "
    "doctor for teeth?=dentist; What do you call a scientist who studies the "
    "stars?=astronomer|astrophysicist; What do you call a person who flies an aircraft?=pilot; What is the "
    "natural satellite of the Earth?=Moon; What is the freezing season of the year called?=winter; In which "
    "season do trees lose their leaves?=autumn|fall; What is the first month of the year?=January; Which "
    "month has 28 days in most years?=February; In which month is Christmas?=December; What is the hardest "
    "natural material?=diamond|diamonds; Which metal is liquid at room temperature?=mercury; Which metal "
    "rusts?=iron|steel; What is molten rock from a volcano called?=lava|magma; What is the study of living "
    "things called?=biology; In which year did World War II end?=1945; In which year did humans first land "
    "on the Moon?=1969; In what year did the Titanic sink?=1912"
)
