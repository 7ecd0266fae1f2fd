"""A small client of Elasticsearch: the few requests that documents of ours need, over HTTP.

It speaks to Elasticsearch 6.8 and newer and to OpenSearch. Each request may be sent again: documents have ids of their
own, so that what was done twice is as if it was done once. Nothing secret is in a message: a server is called by its
scheme, host and port.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import http.client
import json
import ssl
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock.errors import ElasticsearchError, SettingsError
from penstock.index_settings import place_of, split

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from typing_extensions import Self

AGAIN = (429, 502, 503, 504)
"""Answers after which the same request may succeed."""


@dataclass(frozen=True)
class Failure:
    """A document that was refused.

    Attributes:
        id: The document.
        status: What the server answered, as of HTTP.
        reason: Why, in the server's words.
    """

    id: str
    status: int
    reason: str

    @property
    def may_pass(self) -> bool:
        """Whether the server was only too busy for it, or away: sent again later, it may go in."""
        return self.status in AGAIN

    def __str__(self) -> str:
        return f"{self.id}: {self.status}, {self.reason}"


@dataclass
class BulkReport:
    """What became of many documents.

    Attributes:
        indexed: Written.
        deleted: Removed, those included that were gone already.
        failed: Refused, each with the reason; all others are in.
        retried: How often one was sent again.
    """

    indexed: int = 0
    deleted: int = 0
    failed: list[Failure] = field(default_factory=list)
    retried: int = 0


@dataclass(frozen=True)
class Action:
    """A document to write (`source`), or to remove (none).

    Attributes:
        index: Where it is.
        id: Which one.
        source: What it says.
    """

    index: str
    id: str
    source: Mapping[str, Any] | None


@dataclass(frozen=True)
class Version:
    """Of a server.

    Attributes:
        number: As it says, such as `8.19.21`.
        opensearch: Whether it is OpenSearch.
    """

    number: str
    opensearch: bool = False

    @property
    def parts(self) -> tuple[int, ...]:
        """Its first two numbers."""
        return tuple(int(part) for part in self.number.split("-")[0].split(".")[:2])

    @property
    def has_types(self) -> bool:
        """Whether documents need a type."""
        return not self.opensearch and self.parts < (7, 0)

    @property
    def has_composable_templates(self) -> bool:
        """Whether templates are those of `_index_template`."""
        return self.opensearch or self.parts >= (7, 8)

    @property
    def knows_origin(self) -> bool:
        """Whether an index can say since when it counts as old."""
        return not self.opensearch and self.parts >= (7, 5)


class _AgainError(Exception):
    """It was not done, or nobody knows; it may be tried again."""


class Elasticsearch:
    """One connection to a server.

    Args:
        url: Its address; a user and password in it are taken, and not shown.
        user: The user.
        password: The password.
        api_key: A key in the place of both, as Elasticsearch gives it out (base64), or `id:key`.
        ca_file: A file with the certificates to trust; those of the system unless given.
        timeout: Seconds for each answer.
        attempts: How often a request is tried, while that may help.
        pause: Seconds before the second attempt; doubled before each further one.

    Raises:
        SettingsError: The address or the file cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        api_key: str | None = None,
        ca_file: str | None = None,
        timeout: float = 60.0,
        attempts: int = 5,
        pause: float = 0.5,
    ) -> None:
        self.scheme, self._host, self._port, self._prefix, login = split(url)
        self.place = place_of(url)
        self.attempts, self.pause, self.timeout = attempts, pause, timeout
        self._headers = {"Accept": "application/json", "User-Agent": "penstock"}
        if api_key:
            key = base64.b64encode(api_key.encode()).decode() if ":" in api_key else api_key
            self._headers["Authorization"] = f"ApiKey {key.strip()}"
        elif user or login:
            who = f"{user}:{password or ''}" if user else login
            self._headers["Authorization"] = f"Basic {base64.b64encode(who.encode()).decode()}"
        self._tls = _context(ca_file) if self.scheme == "https" else None
        self._connection: http.client.HTTPConnection | None = None
        self._version: Version | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Elasticsearch({self.place!r})"

    def close(self) -> None:
        """Closes the connection; the next request makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- what is asked for --------------------------------------------------------------------------------------------

    def version(self) -> Version:
        """What the server is; asked for once.

        Raises:
            ElasticsearchError: It cannot be reached, or is something else.
        """
        if self._version is None:
            status, said = self.ask("GET", "/")
            told = said.get("version") if isinstance(said, dict) else None
            if status == 200 and isinstance(told, dict) and "number" in told:
                self._version = Version(str(told["number"]), told.get("distribution") == "opensearch")
            else:  # a server of the smallest kind does not say it there
                self._check("GET", "/", status, said, allowed=(200, 405))
                found = self.get("/_nodes/_local?filter_path=nodes.*.version")
                numbers = [str(node["version"]) for node in found.get("nodes", {}).values()]
                if not numbers:
                    raise ElasticsearchError(f"{self.place}: what answers there is not Elasticsearch")
                self._version = Version(numbers[0])
            try:
                _ = self._version.parts
            except ValueError:
                raise ElasticsearchError(f"{self.place}: what answers there is not Elasticsearch") from None
        return self._version

    def put_policy(self, name: str, phases: Mapping[str, Any], gone: Mapping[str, Sequence[str]] | None = None) -> bool:
        """Puts the phases of a lifecycle policy. What somebody has added to it stays: phases, actions, descriptions.

        Args:
            name: The policy.
            phases: What has to be in it.
            gone: Actions that must not be in a phase; a phase without any other goes, too.

        Returns:
            False where the server has no lifecycle management.

        Raises:
            ElasticsearchError: It was refused.
        """
        if self.version().opensearch:
            return False
        path = f"/_ilm/policy/{_quoted(name)}"
        status, said = self.ask("GET", path)
        if status in (405, 410) or (status in (400, 404) and "no handler found" in _reason(said)):
            return False
        self._check("GET", path, status, said, allowed=(404,))
        there = said.get(name, {}).get("policy", {}) if status != 404 else {}
        wanted = _merged(there, {"phases": phases})
        for phase, actions in (gone or {}).items():
            left = wanted["phases"].get(phase, {}).get("actions", {})
            for action in actions:
                left.pop(action, None)
            if not left and phase not in phases:
                wanted["phases"].pop(phase, None)
        # Put again, it would be a new version of the same.
        if wanted != there:
            self.send("PUT", path, {"policy": wanted})
        return True

    def put_template(
        self, name: str, patterns: Sequence[str], settings: Mapping[str, Any], mapping: Mapping[str, Any], alias: str
    ) -> None:
        """Puts the template of indices: those of these patterns get settings, mapping and alias.

        Raises:
            ElasticsearchError: It was refused.
        """
        inside = {"settings": dict(settings), "mappings": dict(mapping), "aliases": {alias: {}}}
        if self.version().has_composable_templates:
            body = {"index_patterns": list(patterns), "priority": 500, "template": inside}
            self.send("PUT", f"/_index_template/{_quoted(name)}", body)
        else:
            self.send(
                "PUT", f"/_template/{_quoted(name)}{self._typeless}", {"index_patterns": list(patterns), **inside}
            )

    def indices(self, pattern: str) -> dict[str, Any]:
        """Indices (of a name, an alias, a pattern) with `aliases`, `mappings` and `settings`, by their own names.

        Raises:
            ElasticsearchError: It was refused.
        """
        path = f"/{_quoted(pattern)}"
        status, said = self.ask("GET", f"{path}{self._typeless or '?'}&flat_settings=true".replace("?&", "?"))
        if status == 404:
            return {}
        self._check("GET", path, status, said)
        return dict(said)

    def create(self, index: str, settings: Mapping[str, Any]) -> None:
        """Makes an index; all that is not said here comes from its template. One that is there already is left alone.

        Raises:
            ElasticsearchError: It was refused.
        """
        path = f"/{_quoted(index)}"
        status, said = self.ask("PUT", path, {"settings": dict(settings)})
        if not (status == 400 and "already exists" in _reason(said)):
            self._check("PUT", path, status, said)

    def documents(self, index: str, sort: str, since: str | None = None, size: int = 5_000) -> dict[str, Action]:
        """All documents of an index or alias, by id.

        Args:
            index: Its name.
            sort: A field that has another value in each of them.
            since: Only those with this value or more.
            size: How many are asked for at once.

        Raises:
            ElasticsearchError: It was refused.
        """
        found: dict[str, Action] = {}
        body: dict[str, Any] = {"size": size, "query": {"match_all": {}}}
        # An index that was made otherwise may not have the field yet.
        body["sort"] = [{sort: {"order": "asc", "unmapped_type": "date"}}]
        if since is not None:
            body["query"] = {"range": {sort: {"gte": since}}}
        while True:
            hits = self.send("POST", f"/{_quoted(index)}/_search", body)["hits"]["hits"]
            for hit in hits:
                found[hit["_id"]] = Action(hit["_index"], hit["_id"], hit["_source"])
            if len(hits) < size:
                return found
            body["search_after"] = hits[-1]["sort"]

    def bulk(self, actions: Iterable[Action], *, chunk: int = 2_000) -> BulkReport:
        """Writes and removes documents, and waits until they can be found.

        What the server is too busy for is sent again, each document for itself, later and later; what it refuses is
        named, and keeps nothing else from going in.

        Raises:
            ElasticsearchError: The server cannot be reached, or refuses all.
        """
        report, left = BulkReport(), list(actions)
        while left:
            now, left = left[:chunk], left[chunk:]
            for attempt in range(1, self.attempts + 1):
                refused = self._bulk(now, report)
                now = [action for action, _ in refused]
                if not now:
                    break
                if attempt < self.attempts:
                    report.retried += len(now)
                    self._wait(attempt)
                else:
                    report.failed += [failure for _, failure in refused]
        return report

    def _bulk(self, actions: Sequence[Action], report: BulkReport) -> list[tuple[Action, Failure]]:
        """One request; gives what is to be sent again, with the reason."""
        lines: list[str] = []
        kind = {"_type": "_doc"} if self.version().has_types else {}
        for action in actions:
            where = {"_index": action.index, **kind, "_id": action.id}
            lines.append(json.dumps({"delete" if action.source is None else "index": where}))
            if action.source is not None:
                lines.append(json.dumps(action.source))
        text = ("\n".join(lines) + "\n").encode()
        path = "/_bulk?refresh=wait_for"
        status, said = self.ask("POST", path, text)
        if status == 413 and len(actions) > 1:
            half = len(actions) // 2
            return self._bulk(actions[:half], report) + self._bulk(actions[half:], report)
        self._check("POST", path, status, said)
        items = [next(iter(item.values())) for item in said.get("items", ())]
        if len(items) != len(actions):
            raise ElasticsearchError(
                f"{self.place}: {len(actions)} documents were sent, and the answer tells of {len(items)}; run it again"
            )
        again = []
        for action, item in zip(actions, items, strict=True):
            code = int(item.get("status", 0))
            if action.source is None and (200 <= code < 300 or (code == 404 and "error" not in item)):
                report.deleted += 1
            elif 200 <= code < 300:
                report.indexed += 1
            else:
                failure = Failure(action.id, code, _reason(item))
                if code in AGAIN:
                    again.append((action, failure))
                else:
                    report.failed.append(failure)
        return again

    # --- requests -----------------------------------------------------------------------------------------------------

    @property
    def _typeless(self) -> str:
        """What a server wants to be told whose mappings may have types."""
        return "?include_type_name=false" if self.version().has_types else ""

    def get(self, path: str) -> Any:
        """What is there."""
        return self.send("GET", path)

    def send(self, method: str, path: str, body: Any = None) -> Any:
        """A request that has to be done.

        Raises:
            ElasticsearchError: It was not.
        """
        status, said = self.ask(method, path, body)
        self._check(method, path, status, said)
        return said

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """A request, tried again while that may help: status and answer, whatever they are.

        Raises:
            ElasticsearchError: No answer came.
        """
        for attempt in range(1, self.attempts + 1):
            last = attempt == self.attempts
            try:
                status, said = self._request(method, path, body)
            except _AgainError as error:
                self.close()
                if last:
                    tried = f" ({attempt} times)" if attempt > 1 else ""
                    raise ElasticsearchError(f"{self.place}: {error}{tried}") from None
            except BaseException:
                self.close()  # an answer may be on its way that belongs to nobody
                raise
            else:
                if status not in AGAIN or last:
                    return status, said
            self._wait(attempt)
        raise AssertionError("there is at least one attempt")

    def _wait(self, attempt: int) -> None:
        time.sleep(min(self.pause * 2 ** (attempt - 1), 30.0))

    def _request(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/x-ndjson" if isinstance(body, bytes) else "application/json"
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        # What the libraries say may hold what was sent; only what is known here goes out.
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._connection.request(method, self._prefix + path, body, headers)
            answer = self._connection.getresponse()
            text = answer.read()
        except ssl.SSLCertVerificationError as error:
            raise ElasticsearchError(
                f"{self.place}: the server's certificate is not trusted ({error.verify_message}); name the authority's "
                "in ca_file"
            ) from None
        except ssl.SSLError as error:
            raise _AgainError(f"no TLS connection ({error.reason or 'cut'})") from None
        except TimeoutError:
            raise _AgainError(f"no answer within {self.timeout:g} seconds") from None
        except (http.client.HTTPException, ConnectionError) as error:
            refused = isinstance(error, ConnectionRefusedError)
            raise _AgainError("no server listens there" if refused else "the connection was cut") from None
        except OSError as error:
            raise _AgainError(f"no connection ({error.strerror or type(error).__name__})") from None
        if 300 <= answer.status < 400:
            raise ElasticsearchError(f"{self.place}: it answers {answer.status}, go elsewhere; give its real address")
        said: Any = None
        with contextlib.suppress(ValueError):
            said = json.loads(text) if text else None
        if answer.status < 300 and text and said is None:
            raise ElasticsearchError(f"{self.place}: what answers there is not Elasticsearch")
        return answer.status, said

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(self._host, self._port, timeout=self.timeout, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port, timeout=self.timeout)

    def _check(self, method: str, path: str, status: int, said: Any, allowed: Sequence[int] = ()) -> None:
        if 200 <= status < 300 or status in allowed:
            return
        what = f"{method} {path.partition('?')[0]}"
        if status == 401:
            raise ElasticsearchError(f"{self.place}: it does not know this user, password or API key (401)")
        if status == 403:
            raise ElasticsearchError(f"{self.place}: {what}: this user or key may not do that (403): {_reason(said)}")
        raise ElasticsearchError(f"{self.place}: {what}: it answered {status}: {_reason(said)}")


def _context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise SettingsError(f"elasticsearch: {ca_file}: is no file of certificates (PEM)") from None
    except OSError as error:
        raise SettingsError(f"elasticsearch: {ca_file}: cannot be read ({error.strerror})") from None


def _merged(there: Any, wanted: Any) -> Any:
    """What is wanted, and what is there besides; a copy."""
    if not isinstance(wanted, dict):
        return wanted
    kept = dict(there) if isinstance(there, dict) else {}
    return copy.deepcopy(kept) | {name: _merged(kept.get(name), value) for name, value in wanted.items()}


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="*,-_.")


def _reason(said: Any) -> str:
    """Why, out of the forms that an answer has."""
    error = said.get("error") if isinstance(said, dict) else None
    if isinstance(error, dict):
        told = str(error.get("reason") or error.get("type") or "no reason given")
        cause = error.get("caused_by")
        if isinstance(cause, dict) and cause.get("reason"):
            told += f": {cause['reason']}"
        return told
    return str(error) if error else "no reason given"
