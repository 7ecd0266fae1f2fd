"""An alert to Slack.

It is tried a few times, and it never hides what it was to tell: its own failure is returned, not raised.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.errors import SettingsError

if TYPE_CHECKING:
    from penstock.quality.checks import QualityReport


@dataclass(frozen=True)
class Alert:
    """What became of an alert."""

    sent: bool
    attempts: int
    reason: str | None = None
    """Why it was not sent; never holds the address, which is a secret."""


@dataclass(frozen=True)
class Slack:
    """An incoming webhook of Slack.

    Attributes:
        webhook: Its address. Whoever has it can write to the channel, so that it is not shown anywhere.
        timeout: Seconds for one attempt as a whole, however slowly the other side answers.
        attempts: How often it is tried.
        pause: Seconds before the second attempt; doubled before each further one.
    """

    webhook: str = field(repr=False)
    timeout: float = 10.0
    attempts: int = 3
    pause: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what can never be sent to, before any check is run."""
        try:
            parts = urllib.parse.urlsplit(self.webhook)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or True)
        except ValueError:
            usable = False
        if not usable or not self.webhook.isprintable() or " " in self.webhook:
            raise SettingsError("slack-webhook: this is not an http(s) address (it is a secret, and so not shown here)")

    def send(self, report: QualityReport) -> Alert:
        """Tell which checks failed."""
        return self.post(text_of(report))

    def post(self, text: str) -> Alert:
        """Send a text, trying again while that may help."""
        body = json.dumps({"text": text}).encode()
        reason = ""
        for attempt in range(1, self.attempts + 1):
            if attempt > 1:
                time.sleep(self.pause * 2 ** (attempt - 2))
            outcome = self._attempt(body)
            if outcome is None:
                return Alert(True, attempt)
            reason, again = outcome
            if not again:
                break
        return Alert(False, attempt, reason)

    def _attempt(self, body: bytes) -> tuple[str, bool] | None:
        """Try once; None when it was taken, else the reason and whether another attempt may help.

        The time-out of a socket starts anew with every byte, so a server that drips could hold the caller for ever:
        the attempt runs in a thread of its own, which can be left behind.
        """
        outcome: list[tuple[str, bool] | None] = []
        thread = threading.Thread(target=lambda: outcome.append(self._request(body)), daemon=True)
        thread.start()
        thread.join(self.timeout)
        return outcome[0] if outcome else (f"no answer within {self.timeout:g} seconds", True)

    def _request(self, body: bytes) -> tuple[str, bool] | None:
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked when the webhook was given
            self.webhook, body, {"Content-Type": "application/json", "User-Agent": "penstock"}, method="POST"
        )
        # Messages of the libraries may quote the address or what the server said; only what is known here goes out.
        try:
            with _OPENER.open(request, timeout=self.timeout) as response:
                status = response.status
        except urllib.error.HTTPError as error:
            status = error.code
            error.close()
        except TimeoutError:
            return f"no answer within {self.timeout:g} seconds", True
        except (http.client.HTTPException, ValueError):
            return "the server's answer is not HTTP", True
        except OSError as error:
            cause: object = getattr(error, "reason", error)
            if isinstance(cause, TimeoutError):
                return f"no answer within {self.timeout:g} seconds", True
            said = cause.strerror if isinstance(cause, OSError) else None
            return f"no connection ({said or type(cause).__name__})", True
        if 200 <= status < 300:
            return None
        return f"the server answered {status}", status >= 500 or status in (408, 429)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A webhook does not move; following would turn the POST into a GET that says nothing."""

    def redirect_request(self, *_: object) -> None:
        """Do not follow."""
        return


_OPENER = urllib.request.build_opener(_NoRedirect)


def text_of(report: QualityReport) -> str:
    """The alert as Slack shows it."""
    failed = f"{len(report.failed)} of {len(report.checks)} checks failed for {report.date}"
    lines = [f":rotating_light: *{report.pipeline}*: {failed}"]
    lines += [f"• *{check.name}*: {check.message}" for check in report.failed]
    return "\n".join(lines)
