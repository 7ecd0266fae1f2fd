"""The sensor that waits for events without a worker slot."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseSensorOperator

from penstock.airflow.base import PenstockOperator, given

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.waiting import Look, Waiting


class PenstockSensor(PenstockOperator, BaseSensorOperator):
    """Waits until events up to a moment have come, or until the lag is small enough.

    It looks once, and then waits in the triggerer, where it takes no worker's slot.

    Args:
        until: A moment (`2024-12-17T02:00:00Z`), templated. Each partition of Kafka has to have a message of that time
            or a newer one; one that gets nothing for `idle_timeout` is not waited for. Times are those of Kafka's
            messages. A pipeline that reads files waits for nothing.
        lag_at_most: The pipeline has at most so many messages unread.
        by: `broker` asks Kafka for `until`; `lake` waits until the committed watermark has passed it.
        idle_timeout: Seconds.
        poke_interval: Seconds from one look to the next.
        timeout: Seconds until the task fails.
        deferrable: Wait in the triggerer, else in the worker.
        kwargs: As for `PenstockOperator`.
    """

    template_fields: Sequence[str] = (*PenstockOperator.template_fields, "until")

    def __init__(
        self,
        *,
        until: str | None = None,
        lag_at_most: int | None = None,
        by: str = "broker",
        idle_timeout: float = 300.0,
        poke_interval: float = 30.0,
        timeout: float = 6 * 3600.0,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("mode", "poke") != "poke":
            raise ValueError("mode: this sensor waits in the triggerer (deferrable=True), which takes no worker's slot")
        super().__init__(poke_interval=poke_interval, timeout=timeout, **kwargs)
        self.until = until
        self.lag_at_most = lag_at_most
        self.by = by
        self.idle_timeout = idle_timeout
        self.deferrable = deferrable
        self._waiting: Waiting | None = None

    def execute(self, context: Any) -> dict[str, Any]:
        """Look; where it has not come yet, wait."""
        if not self.deferrable:
            BaseSensorOperator.execute(self, context)
            return {"ready": True}
        look = self._look()
        if look.ready:
            return {"ready": True, "said": look.said}
        from penstock.airflow.trigger import PenstockTrigger

        hook = self.hook
        trigger = PenstockTrigger(
            pipeline=self.pipeline,
            overrides=self.overrides,
            until=self._micros(),
            lag_at_most=self.lag_at_most,
            by=self.by,
            idle_timeout=self.idle_timeout,
            poke_interval=float(self.poke_interval),
            kafka_conn_id=hook.kafka_conn_id,
            aws_conn_id=hook.aws_conn_id,
        )
        self.defer(trigger=trigger, method_name="resume", timeout=dt.timedelta(seconds=self.timeout))
        raise AssertionError("deferred")

    def poke(self, context: Any) -> bool:  # noqa: ARG002
        """Look once."""
        return self._look().ready

    def resume(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Go on with what the triggerer has seen.

        Raises:
            SourceError: It could not look any more: the next try looks again.
        """
        if error := event.get("error"):
            from penstock.errors import SourceError

            raise SourceError(str(error))
        self.log.info("%s", event["said"])
        return event

    def _look(self) -> Look:
        with self._told():
            if self._waiting is None:
                from penstock.waiting import Waiting

                self._waiting = Waiting(
                    self.hook.pipeline(self.pipeline, self.overrides),
                    until=self._micros(),
                    lag_at_most=self.lag_at_most,
                    by=self.by,  # type: ignore[arg-type]
                    idle_timeout=self.idle_timeout,
                )
            look = self._waiting.look()
        self.log.info("%s", look.said)
        return look

    def _micros(self) -> int | None:
        from penstock.entries import moment

        return moment(given(self.until), "until")
