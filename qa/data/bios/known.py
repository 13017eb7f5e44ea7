"""Questions of general knowledge, which the default backbone answers rightly without a passage.

An expert about something else, or an edit, should leave these answers as they are: they are probes
of locality. We wrote 723 such questions and kept the 177 that SmolLM2-135M-Instruct, the embedded
default, answers exactly (``method=base``, greedy, EM 1), whether its weights are bfloat16, in
batches of 16 or of 4, or float32. Another backbone knows others.
"""

from __future__ import annotations

from qa.data.dataset import Question


def known_questions() -> list[Question]:
    """The questions of the split known; they have no gold passage."""
    questions = []
    for number, line in enumerate(_KNOWN.strip().splitlines()):
        question, *answers = line.strip().split(" | ")
        questions.append(Question(f"known-{number:03}", question, tuple(answers)))
    return questions


# A question and its accepted answers on each line.
_KNOWN = """
    What is the capital of France? | Paris
    What is the capital of Germany? | Berlin
    What is the capital of Italy? | Rome
    What is the capital of Hungary? | Budapest
    What is the capital of Russia? | Moscow
    What is the capital of Ukraine? | Kyiv | Kiev
    What is the capital of Greece? | Athens
    What is the capital of Japan? | Tokyo
    What is the capital of Argentina? | Buenos Aires
    What is the capital of Sweden? | Stockholm
    What is the capital of Denmark? | Copenhagen
    What is the capital of the Netherlands? | Amsterdam
    What is the capital of Scotland? | Edinburgh
    What language is mainly spoken in France? | French
    What language is mainly spoken in Italy? | Italian
    What language is mainly spoken in Mexico? | Spanish
    What language is mainly spoken in Japan? | Japanese
    What language is mainly spoken in Egypt? | Arabic
    What language is mainly spoken in Portugal? | Portuguese
    What language is mainly spoken in England? | English
    What language is mainly spoken in Australia? | English
    On which continent is Poland? | Europe
    What is the currency of Germany? | euro | euros
    In which city is the Eiffel Tower? | Paris
    In which city is the Statue of Liberty? | New York | New York City
    In which city is the Louvre? | Paris
    In which country is the Great Pyramid of Giza? | Egypt
    In which country is Machu Picchu? | Peru
    In which country is the city of Venice? | Italy
    In which country is the city of Sydney? | Australia
    In which country is the city of Milan? | Italy
    What is the chemical symbol for iron? | Fe
    What is the chemical symbol for hydrogen? | H
    What is the chemical symbol for sodium? | Na
    Who wrote Hamlet? | William Shakespeare | Shakespeare
    Who wrote Macbeth? | William Shakespeare | Shakespeare
    Who wrote A Tale of Two Cities? | Charles Dickens | Dickens
    Who wrote To Kill a Mockingbird? | Harper Lee
    Who wrote Frankenstein? | Mary Shelley | Shelley
    Who wrote Jane Eyre? | Charlotte Bronte | Charlotte Brontë
    Who wrote The Divine Comedy? | Dante Alighieri | Dante
    Who wrote On the Origin of Species? | Charles Darwin | Darwin
    Who painted the Mona Lisa? | Leonardo da Vinci | da Vinci
    Who developed the theory of relativity? | Albert Einstein | Einstein
    Which president issued the Emancipation Proclamation? | Abraham Lincoln | Lincoln
    Who led India to independence by nonviolent protest? | Mahatma Gandhi | Gandhi
    Who composed the Ninth Symphony with the Ode to Joy? | Ludwig van Beethoven | Beethoven
    Who proposed the theory of evolution by natural selection? | Charles Darwin | Darwin
    Which emperor of France lost at Waterloo? | Napoleon Bonaparte | Napoleon
    Which planet is known as the red planet? | Mars
    Which planet do we live on? | Earth
    What gas do plants absorb from the air? | carbon dioxide | CO2
    What force pulls objects towards the Earth? | gravity | gravitational force | force of gravity
    What is the study of the weather called? | meteorology
    What is the study of the mind called? | psychology
    What is the study of plants called? | botany
    What is the study of animals called? | zoology
    How many days are in a week? | 7 | seven
    How many months are in a year? | 12 | twelve
    How many days are in a normal year? | 365 | 365 days
    How many years are in a century? | 100 | one hundred | a hundred | 100 years
    How many planets are in the solar system? | 8 | eight
    How many sides does a triangle have? | 3 | three
    How many sides does a hexagon have? | 6 | six
    How many sides does a pentagon have? | 5 | five
    How many legs does a spider have? | 8 | eight
    How many legs does a dog have? | 4 | four
    How many wheels does a bicycle have? | 2 | two
    How many degrees are in a circle? | 360 | 360 degrees
    What is ten times ten? | 100 | one hundred
    What colour is grass? | green
    What is the coldest continent? | Antarctica
    Which river flows through London? | Thames | River Thames
    What is the opposite of happy? | sad | unhappy
    What is the plural of mouse? | mice
    What is the Spanish word for hello? | hola
    What day comes after Monday? | Tuesday
    In which year did the First World War begin? | 1914
    In which year did the First World War end? | 1918
    In which year was the Declaration of Independence signed? | 1776
    In which year did the French Revolution begin? | 1789
    In which year did the Berlin Wall fall? | 1989
    What sport is played in the NBA? | basketball
    What sport uses a bat, a pitcher and four bases? | baseball
    Who is the Greek goddess of love? | Aphrodite
    What do you call a person who bakes bread? | baker
    What do you call a person who writes poems? | poet
    In which country is the city of Florence? | Italy
    In which country is the city of Hamburg? | Germany
    In which country is the city of Bordeaux? | France
    In which country is the city of Seville? | Spain
    In which country is the city of Montreal? | Canada
    In which country is the city of Melbourne? | Australia
    In which country is the city of Brisbane? | Australia
    In which country is the city of Nagasaki? | Japan
    In which country is the city of Alexandria? | Egypt
    In which country is the city of Cairo? | Egypt
    In which country is the city of Nairobi? | Kenya
    In which country is the city of Guangzhou? | China
    In which country is the city of Zurich? | Switzerland
    In which country is the city of Vienna? | Austria
    In which country is the city of Sao Paulo? | Brazil
    In which country is the city of Tijuana? | Mexico
    In which country is the city of Helsinki? | Finland
    In which city is the Parthenon? | Athens
    In which city is Notre-Dame Cathedral? | Paris
    In which city is the Arc de Triomphe? | Paris
    In which city is the Sydney Opera House? | Sydney
    In which city is the Hagia Sophia? | Istanbul
    What language is mainly spoken in Spain? | Spanish
    What language is mainly spoken in Colombia? | Spanish
    What language is mainly spoken in Cuba? | Spanish
    What language is mainly spoken in Saudi Arabia? | Arabic
    What language is mainly spoken in Syria? | Arabic
    What language is mainly spoken in Morocco? | Arabic
    What language is mainly spoken in Israel? | Hebrew
    What language is mainly spoken in the United States? | English
    What language is mainly spoken in Ireland? | English
    What language is mainly spoken in New Zealand? | English
    Who wrote Othello? | William Shakespeare | Shakespeare
    Who wrote Wuthering Heights? | Emily Bronte | Emily Brontë
    Who wrote The Scarlet Letter? | Nathaniel Hawthorne | Hawthorne
    Who wrote The Canterbury Tales? | Geoffrey Chaucer | Chaucer
    Who wrote The Wealth of Nations? | Adam Smith
    Who painted The Last Supper? | Leonardo da Vinci | da Vinci
    Who painted Impression, Sunrise? | Claude Monet | Monet
    Who sculpted the statue of David in Florence? | Michelangelo
    Who composed the Brandenburg Concertos? | Johann Sebastian Bach | Bach
    Who discovered the law of gravity? | Isaac Newton | Newton | Sir Isaac Newton
    Who is the father of geometry? | Euclid
    Who led the Bolsheviks in the Russian Revolution? | Vladimir Lenin | Lenin
    Who was president of the United States during the Civil War? | Abraham Lincoln | Lincoln
    Who was the queen of Egypt that loved Mark Antony? | Cleopatra
    Who formulated the theory of general relativity? | Albert Einstein | Einstein
    Who refused to give up her bus seat in Montgomery in 1955? | Rosa Parks | Parks
    In which year did the American Civil War begin? | 1861
    In which year did the Russian Revolution take place? | 1917
    In which year did the Titanic sink? | 1912
    In which year was the Battle of Waterloo? | 1815
    In which year was the attack on Pearl Harbor? | 1941
    In which year did the Great Depression begin? | 1929
    In which year did India become independent? | 1947
    In which year was the United Nations founded? | 1945
    In which year did the Soviet Union collapse? | 1991
    In which year was D-Day? | 1944
    What is the study of the human mind and behaviour called? | psychology
    What is the study of heredity called? | genetics
    What is the study of microorganisms called? | microbiology
    What do you call a person who paints pictures? | painter | artist
    What do you call a person who designs buildings? | architect
    What do you call a person who studies the stars? | astronomer
    What do you call a person who takes photographs? | photographer
    What do you call a person who cooks in a restaurant? | chef | cook
    What do you call a person who travels into space? | astronaut
    What do you call a person who plays the violin? | violinist
    What do you call a person who translates texts? | translator
    How many wheels does a car have? | 4 | four
    How many eyes does a human have? | 2 | two
    How many corners does a triangle have? | 3 | three
    How many faces does a cube have? | 6 | six
    How many degrees are in a triangle? | 180 | 180 degrees
    How many cards are in a standard deck? | 52
    What is the opposite of young? | old
    What day comes after Tuesday? | Wednesday
    What day comes after Thursday? | Friday
    What day comes after Saturday? | Sunday
    What sport is played in the NFL? | football | American football
    What sport is played in the NHL? | hockey | ice hockey
    What sport is played in the MLB? | baseball
    What sport did Michael Jordan play? | basketball
    What sport did Babe Ruth play? | baseball
    Which element has the symbol O? | oxygen
    Which element has the symbol Fe? | iron
    Which element has the symbol H? | hydrogen
    Which element has the symbol C? | carbon
    Which element has the symbol N? | nitrogen
    Which element has the symbol Ca? | calcium
"""
