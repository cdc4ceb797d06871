"""Everything that is wrong with the input files, said at once."""

from collections import defaultdict
from pathlib import Path

from pipeline.salt.errors import InputError

LINES = 20  # of one kind that are shown before "and N more"


class Faults(defaultdict[str, list[str]]):
    """Kind of fault -> its lines, each of which names a file, the rule and the id or value that breaks it."""

    def __init__(self) -> None:
        super().__init__(list)

    def raise_if_any(self, folder: Path) -> None:
        """Raise one InputError with all of them."""
        total = sum(map(len, self.values()))
        if total:
            lines = [f"{total} fault{'s' * (total > 1)} in {folder}: mend or download again what is named here."]
            for same in self.values():
                lines += [f"  {line}" for line in same[:LINES]]
                lines += [f"  and {len(same) - LINES} more like these"] * (len(same) > LINES)
            raise InputError("\n".join(lines))
