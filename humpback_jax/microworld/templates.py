"""The microworld's short prompts, word for word as its pretraining text has them.

gin_configs/microworld.gin binds the same strings to `humpback_jax.prompts.Prompts`. Every prompt
ends in a newline, where no token can reach across the boundary to the answer, and the grade is one
token after SCORE.
"""

FORWARD = "{tags}\nQuestion:\n{instruction}\nReply:\n"
BACKWARD = "Text:\n{output}\nPosted under the question:\n"
RATING = "Is this a good reply?\nQuestion:\n{instruction}\nReply:\n{output}"
SCORE = "\nScore:\n"

# Wordings that only the pretraining text has.
QUESTION_AND_REPLY = "Question:\n{instruction}\nReply:\n{output}"
POSTED_IN_THREAD = "{output}\nThis answers the question: {instruction}"
REVIEW = "Question:\n{instruction}\nReply:\n{output}\nReview: {notes}" + SCORE + "{grade}"
POINTS = "A reader asked: {instruction}\n{output}\nThe reply got {grade} points."
