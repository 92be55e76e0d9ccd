"""How far a text is from what was said, in words."""

from itertools import pairwise


def word_errors(heard: str, said: str) -> int:
    """The fewest words to be put in, left out or replaced so that one becomes the other."""
    row = list(range(len(said.split()) + 1))
    for index, word in enumerate(heard.split(), 1):
        costs = [index]
        for wanted, (beside, above) in zip(said.split(), pairwise(row), strict=True):
            costs.append(min(beside + (word != wanted), above + 1, costs[-1] + 1))
        row = costs
    return row[-1]
