"""Names of others in C text: what a model's author chose must not become code.

    identifier   letters, digits and _ of ASCII; all else becomes _; never a keyword, never begins with a digit or _
    remark       what stands in comments and strings: letters, digits, blanks and a few marks; all else becomes _

A remark thus holds no */ and no /*, no quote, no backslash, no line break, and no ?, so no trigraph.
"""

import re

from halfeven.errors import BadOption

LONGEST = 63
_KEYWORDS = re.compile(
    "auto|break|case|char|const|continue|default|do|double|else|enum|extern|float|for|goto|if|inline|int|long|register|"
    "restrict|return|short|signed|sizeof|static|struct|switch|typedef|union|unsigned|void|volatile|while|main|asm|"
    "typeof|class|new|delete|this|template|operator|private|public|protected|namespace|try|catch|throw|bool|true|false|"
    "and|or|not|xor|alignas|alignof|constexpr|nullptr|virtual|friend|using|explicit|export|mutable"
)
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def identifier(name: str) -> str:
    """A C and C++ identifier made of `name`: at most 63 characters."""
    found = re.sub(r"[^A-Za-z0-9_]", "_", name).strip("_")[:LONGEST] or "network"
    found = f"n{found}"[:LONGEST] if found[0].isdigit() else found
    return f"{found}_"[-LONGEST:] if _KEYWORDS.fullmatch(found) else found


def remark(text: str, longest: int = 96) -> str:
    """`text` as it may stand in a comment or a string literal."""
    return re.sub(r"[^A-Za-z0-9 _.,:;()\[\]=+-]", "_", text)[:longest]


def file_stem(stem: str) -> str:
    """The name of the files, which stands in an #include.

    Raises:
        BadOption: it holds more than letters, digits and a few marks.
    """
    if not _FILE.fullmatch(stem):
        raise BadOption(f"C files cannot be named '{stem}': use letters, digits, '_', '-', '+' and '.'.")
    return stem
