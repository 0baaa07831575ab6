"""The one exception for wrong input."""

_LONGEST, _END = 2000, 500


class InputError(ValueError):
    """The user's input is wrong.

    The message is a single line that says what was expected, what came, and what to do.
    The command line prints it without a traceback and exits with code 2. What it quotes may come
    from anywhere: line breaks become blanks, other signs that no terminal should get are spelled
    out, and the middle of a very long message is left out.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(_one_line(str(message)))


def _one_line(text: str) -> str:
    if len(text) > _LONGEST + _END:
        text = f"{text[:_LONGEST]} ... {text[-_END:]}"
    text = " ".join(text.splitlines())
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
