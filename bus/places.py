"""Places that several share, so that whoever takes many of them leaves some to the others."""


class Places:
    """`most` places. One may take another as long as it has fewer than `factor` times those that are free.

    So with a factor of one, one alone gets half of them, two a third each, and there is always room for one who comes
    new: the dynamic thresholds of Choudhury and Hahne (IEEE/ACM Transactions on Networking 6(2), 1998).
    """

    def __init__(self, most: int, factor: int = 1) -> None:
        self.most, self.taken, self._factor = most, 0, factor
        self._of: dict[str, int] = {}

    def has_room(self, name: str) -> bool:
        """Tell whether `name` may take one more."""
        return self._of.get(name, 0) < self._factor * (self.most - self.taken)

    def take(self, name: str) -> None:
        self.taken += 1
        self._of[name] = self._of.get(name, 0) + 1

    def leave(self, name: str) -> None:
        self.taken -= 1
        left = self._of[name] - 1
        if left:
            self._of[name] = left
        else:
            del self._of[name]
