"""`index: {file: FILE}`: documents in a file, one a line, by their id.

It is brought up to date as an index on a server is: what is before `since` stays, and an empty view removes nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.errors import SettingsError, WarehouseError

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.index import IndexReport


@dataclass
class DocumentsFile:
    """The documents of a view in a file.

    Attributes:
        path: The file; it need not be there.
        id: The field that is a document's id, and its time.
        report: Told what was done.
    """

    path: Path
    id: str
    report: IndexReport

    def look(self, since: str | None) -> None:
        """See what is there.

        Raises:
            SettingsError: It is there and has other things than documents of this kind, or it cannot be read.
        """
        self._held: dict[str, dict[str, Any]] = {}
        try:
            for line in self.path.read_text(encoding="utf-8").splitlines():
                document = json.loads(line)
                self._held[document[self.id]] = document
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SettingsError(f"index: {self.path}: cannot be read ({error.strerror})", name="index.file") from None
        except (ValueError, TypeError, LookupError):
            raise SettingsError(
                f"index: {self.path}: has something in it that is no document with {self.id}, one a line: nothing was "
                "changed. Name another file",
                name="index.file",
            ) from None
        self._before = {key: held for key, held in self._held.items() if since is not None and key < since}

    def bring(self, rows: list[dict[str, Any]], there: bool) -> None:
        """Bring what was seen up to date; whole or not at all, and the same bytes for the same documents.

        Raises:
            WarehouseError: The view is empty, and the file is not.
            SettingsError: It cannot be written.
        """
        have = {key: held for key, held in self._held.items() if key not in self._before}
        wanted = {str(row[self.id]): row for row in rows}
        if not there and have:
            raise WarehouseError(
                f"{self.report.view} is empty in the warehouse, and there are {len(have):,} documents in "
                f"{self.path}: nothing was changed. Is it the right warehouse, and refreshed? If so, remove the file"
            )
        changed = sum(have.get(key) != row for key, row in wanted.items())
        documents = [row for _, row in sorted((self._before | wanted).items())]
        self._write("".join(json.dumps(row) + "\n" for row in documents))
        self.report.indexed, self.report.unchanged = changed, len(wanted) - changed
        self.report.deleted = len(have.keys() - wanted.keys())

    def _write(self, text: str) -> None:
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(text, encoding="utf-8")
            new.replace(self.path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise SettingsError(
                f"index: {self.path}: cannot be written ({error.strerror})", name="index.file"
            ) from None
