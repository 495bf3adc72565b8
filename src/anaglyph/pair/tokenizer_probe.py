"""Tokenizes a few texts in a process of its own: rules that blow up exhaust only that.

Run as a script, never imported: `python tokenizer_probe.py TOKENIZER.JSON BYTES SECONDS`. It
imports nothing but tokenizers. A tokenizer's rules are a stranger's regular expressions and
replacements; some of them take a lifetime, or all memory, for one line of text.
"""

import sys

TEXTS = (
    "The quick brown fox jumps over the lazy dog, and 12 others don't; see https://a.b/c?d=e_f.",
    *(
        unit * 64
        for unit in ("a", "A", "0", " ", "\n", "\t", "!", "_", "é", "中", "a ", "ab", "0.")
    ),
    *(unit * 48 + "!x" for unit in ("a", "0", " ", "a ", "aA", "\n ", "'s")),
    "def f(x):\n\n\n        return  {'a': [1, 2, 3]}   # 1e-5\r\n" * 8,
)

if __name__ == "__main__":
    try:
        import resource

        limit = int(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        seconds = int(sys.argv[3])
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    except (ImportError, ValueError, OSError):
        pass  # Windows, or a lower limit in force
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(sys.argv[1])
    for text in TEXTS:
        tokenizer.encode(text)
