"""New tokens, handed out as text while the rest is being generated."""

from __future__ import annotations

from collections.abc import Callable

OnToken = Callable[[int, int, str], object]
_UNFINISHED = "\ufffd"


class Stream:
    """Calls back for each new token of some texts, with the text that it adds.

    A token may end within a character; its piece is then empty, and the character comes with the
    token that completes it.

    Args:
        decode: token ids to text.
        first: index of the first text.
        texts: how many there are.
        on_token: called as `on_token(text, token, piece)`; None: nobody listens.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        first: int,
        texts: int,
        on_token: OnToken | None,
    ) -> None:
        self.decode, self.first, self.on_token = decode, first, on_token
        self.given = [0] * texts
        self.said = [""] * texts

    def advance(self, new: list[list[int]]) -> None:
        """Hands out what is new, but for the last token of each text: it may be its end."""
        for text in range(len(self.given)):
            self._give(text, new[text], len(new[text]) - 1)

    def finish(self, new: list[list[int]]) -> list[str]:
        """Hands out the rest; returns the texts."""
        whole = [self.decode(ids) for ids in new[: len(self.given)]]
        for text, final in enumerate(whole):
            self._give(text, new[text], len(new[text]), final)
        return whole

    def _give(self, text: int, ids: list[int], until: int, final: str | None = None) -> None:
        if self.on_token is None:
            return
        for i in range(self.given[text], until):
            said = self.decode(ids[: i + 1])
            if i + 1 == len(ids) and final is not None:
                said = final
            elif said.endswith(_UNFINISHED) or not said.startswith(self.said[text]):
                said = self.said[text]
            piece = said[len(self.said[text]) :]
            self.said[text] = said
            self.on_token(self.first + text, ids[i], piece)
        self.given[text] = max(self.given[text], until)
