"""Short conversations that a model of a million parameters learns in minutes: what the quickstart teaches.

Questions come in dozens of wordings and answers in few, so that what has to be learnt is what a question
means. The held-out split asks in other sentences, of ordinary words, with other numbers, words and names.
"""
