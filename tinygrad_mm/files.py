"""Floor 0. What all that write files share: a new version of a file has the permissions of the one before."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["keep_permissions"]


def keep_permissions(temporary: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Give a temporary file the permissions of the file that it is to replace, where there is one.

    Without this, weights that only their owner may read could be read by everybody after the next `save`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     old, new = Path(folder, "old"), Path(folder, "new")
    ...     old.touch(mode=0o600), new.touch(mode=0o644)
    ...     keep_permissions(new, old)
    ...     stat.S_IMODE(new.stat().st_mode) == stat.S_IMODE(old.stat().st_mode)
    (None, None)
    True
    """
    path = Path(path)
    if path.exists():
        os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
