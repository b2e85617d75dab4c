"""What a reproduction has finished, so that it goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neurosens_fast.support.files import write_whole

from .plan import Plan

PLAN = "plan.json"


class Store:
    """JSON values by name below ``folder``. ``ValueError`` if the folder holds the results of another plan."""

    def __init__(self, folder: Path, plan: Plan, say: Callable[[str], None]) -> None:
        self.folder, self._say = folder, say
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "work").mkdir(exist_ok=True)
        wanted, path = plan.as_json(), folder / PLAN
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path} is damaged; remove {folder} or choose another folder") from error
            differing = [name for name in wanted if found.get(name) != wanted[name]]
            if differing:
                name = differing[0]
                raise ValueError(
                    f"{folder} holds a reproduction with {name} {found.get(name)!r}, not {wanted[name]!r}; choose "
                    "another folder, or give the same sizes to go on"
                )
        else:
            write_whole(path, (json.dumps(wanted, indent=1) + "\n").encode())

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What ``compute`` gave, now or in an earlier run."""
        path = self.folder / "work" / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        self._say(name)
        value = compute()
        write_whole(path, (json.dumps(value) + "\n").encode())
        return json.loads(json.dumps(value))
