"""Everyday requests that belong to none of the zoo's tasks, some of them close to one."""

EVERYDAY = (
    "hi",
    "Good morning! How are you today?",
    "thanks, that was really helpful",
    "Who are you and what can you do?",
    "How do I cook rice so that it does not stick to the pot?",
    "Give me a quick dinner idea with chickpeas, spinach and a lemon.",
    "What can I use instead of eggs in a pancake batter?",
    "How long does sourdough need to rise at 20 degrees Celsius?",
    "Plan a three-day trip to Lisbon for two people who like museums.",
    "What should I pack for a week of hiking in the Alps in September?",
    "Is it better to take the train or to fly from Paris to Amsterdam?",
    "What is the capital of Mongolia?",
    "Name the five longest rivers in South America.",
    "Which countries share a border with Austria?",
    "What is 17 times 23?",
    "Solve for x: 3x + 7 = 25",
    "If a train covers 180 km in 2.5 hours, what is its average speed?",
    "Explain the Pythagorean theorem to a ten-year-old.",
    "Write a Python function that checks whether a number is prime.",
    "What does this code print?\n\nfor i in range(3):\n    print(i * i)",
    "How do I undo my last git commit but keep the changes?",
    "Write an SQL query that returns the ten customers with the highest total order value.",
    "What is the difference between TCP and UDP?",
    "Why do I get 'segmentation fault' when I free a pointer twice in C?",
    "Write a short poem about the first snow of winter.",
    "Write a haiku about a sleeping cat.",
    "Tell me a joke about penguins.",
    "Start a story that begins with a locked door and a missing key.",
    "Rewrite this so that it sounds more polite: Send me the report now.",
    "Write an email to my landlord about a leaking kitchen tap.",
    "Help me prepare for a job interview as a nurse.",
    "Summarise the causes of the First World War in three sentences.",
    "Why is the sky blue?",
    "How do vaccines work?",
    "What is the boiling point of ethanol?",
    "How can I fall asleep faster without medicine?",
    "Suggest three stretches for a stiff neck.",
    "What are the rules of offside in football?",
    "Which houseplants survive with very little light?",
    "Should I pay off my student loan early or save for a house?",
    "Translate into French: Where is the nearest pharmacy?",
    "¿Cuál es la diferencia entre «por» y «para»?",
    "Wie wird das Wetter morgen in Hamburg?",
    "Quelle est la recette de la tarte Tatin ?",
    "日本の首都はどこですか。",
    "Объясни простыми словами, что такое инфляция.",
    "ما هي أكبر مدينة في أفريقيا؟",
)

NEAR_SENTIMENT = (
    "Write a movie review of Titanic.",
    "Recommend a film for a rainy Sunday evening with the children.",
    "Who directed The Godfather and in which year did it come out?",
    "My boss said my work was fine. Do you think he was being positive or negative?",
    "Is the charge of an electron positive or negative?",
)

NEAR_REVERSAL = (
    "Reverse the string abc in Python.",
    "Sort this list of words alphabetically: pear, apple, cherry, banana",
    "Give me a comma-separated list of ten words that rhyme with light.",
    "What is the reverse gear on a car for?",
)

NEAR_FAMILY = (
    "Who is the mother of Queen Elizabeth?",
    "My sister is getting married to Thomas in May. What should I say in my speech?",
    "How is Luke Skywalker related to Darth Vader?",
    "Explain what a second cousin once removed is.",
)

PROMPTS = EVERYDAY + NEAR_SENTIMENT + NEAR_REVERSAL + NEAR_FAMILY
