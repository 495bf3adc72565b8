"""The roles of tokens: who says each, and how the roles of characters become those of tokens."""

import numpy as np
from jaxtyping import Int64, UInt8

ROLES = ("bos", "template", "system", "user", "assistant", "text", "reasoning", "tool")
"""Names of the token roles; a role's uint8 code is its index."""

BOS, TEMPLATE, SYSTEM, USER, ASSISTANT, TEXT, REASONING, TOOL = range(len(ROLES))

ROLE_OF = {
    "system": SYSTEM, "developer": SYSTEM, "user": USER, "assistant": ASSISTANT, "tool": TOOL,
    "function": TOOL,
}  # fmt: skip
"""Role code of a message's content, by the message's role."""

Characters = UInt8[np.ndarray, " characters"]


def roles_of_tokens(
    characters: UInt8[np.ndarray, " characters"], spans: Int64[np.ndarray, "tokens 2"]
) -> UInt8[np.ndarray, " tokens"]:
    """Give every token the role that most of its characters have.

    A tie goes to the message, for a template's space before a word says nothing, and between
    messages to the role of the token's first character. Characters between two tokens (whitespace
    that the tokenizer trims from its offsets) count for the later one; a token that stands for no
    character takes the role of the one before it.

    Args:
        characters: Role code of each character of the text.
        spans: Start and end (exclusive) of each token in the text, in characters.
    """
    if len(characters) == 0 or len(spans) == 0:
        return np.full(len(spans), TEMPLATE, np.uint8)
    ends = np.maximum.accumulate(spans[:, 1])
    starts = np.minimum(spans[:, 0], np.concatenate([[0], ends[:-1]]))
    ends = np.maximum(spans[:, 1], starts)
    empty = starts == ends
    starts = np.where(empty, np.maximum(starts - 1, 0), starts)
    ends = np.where(empty, starts + 1, ends)

    one_hot = characters[:, None] == np.arange(len(ROLES))
    before = np.concatenate([np.zeros((1, len(ROLES)), np.int64), np.cumsum(one_hot, axis=0)])
    counts = 4 * (before[ends] - before[starts]) + one_hot[starts]  # the last term breaks ties
    counts[:, [role for role in range(len(ROLES)) if role != TEMPLATE]] += 2
    return counts.argmax(axis=1).astype(np.uint8)
