"""What waits in the triggerer in the place of a worker."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence


class PenstockTrigger(BaseTrigger):
    """Looks again and again whether events have come, each time in a thread: the triggerer itself never waits.

    What Airflow keeps of it are names of connections, no secret.

    Args:
        pipeline: As for `PenstockSensor`, like what follows.
        overrides: Settings in place of the file's.
        until: The moment, in microseconds since 1970.
        lag_at_most: The lag.
        by: Who is asked.
        idle_timeout: Seconds.
        poke_interval: Seconds.
        patience: Seconds in which a broker or lake that cannot be asked is asked again, before the wait ends.
        kafka_conn_id: A connection of type `kafka`.
        aws_conn_id: One of type `aws`.
    """

    def __init__(
        self,
        *,
        pipeline: str,
        overrides: Mapping[str, Any] | Sequence[str] | None = None,
        until: int | None = None,
        lag_at_most: int | None = None,
        by: str = "broker",
        idle_timeout: float = 300.0,
        poke_interval: float = 30.0,
        patience: float = 600.0,
        kafka_conn_id: str | None = None,
        aws_conn_id: str | None = None,
    ) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.overrides = overrides
        self.until = until
        self.lag_at_most = lag_at_most
        self.by = by
        self.idle_timeout = idle_timeout
        self.poke_interval = poke_interval
        self.patience = patience
        self.kafka_conn_id = kafka_conn_id
        self.aws_conn_id = aws_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What Airflow keeps of it."""
        names = ("pipeline", "overrides", "until", "lag_at_most", "by", "idle_timeout", "poke_interval", "patience")
        kept = {name: getattr(self, name) for name in (*names, "kafka_conn_id", "aws_conn_id")}
        return "penstock.airflow.trigger.PenstockTrigger", kept

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait. One event comes of it: what was seen, or why nothing can be seen."""
        from penstock.errors import LakeError, PenstockError, SourceError
        from penstock.waiting import Look

        try:
            waiting = await self._waiting()
            said, seen = None, time.monotonic()
            while True:
                try:
                    look = await asyncio.to_thread(waiting.look)
                    seen = time.monotonic()
                except (LakeError, SourceError) as error:
                    # A broker that is started again is no reason to begin the wait again.
                    if time.monotonic() - seen >= self.patience:
                        raise
                    look = Look(ready=False, said=str(error))
                if look.said != said:
                    self.log.info("%s", look.said)
                    said = look.said
                if look.ready:
                    break
                await asyncio.sleep(self.poke_interval)
        except PenstockError as error:
            yield TriggerEvent({"error": str(error)})
            return
        yield TriggerEvent({"ready": True, "said": said})

    async def _waiting(self) -> Any:
        from penstock.airflow.base import PenstockOperator
        from penstock.airflow.hook import PenstockHook
        from penstock.waiting import Waiting

        hook = PenstockHook(
            kafka_conn_id=self.kafka_conn_id, aws_conn_id=self.aws_conn_id, kinds=PenstockOperator.needs
        )
        connections = await hook.aconnections()

        def opened() -> Waiting:
            return Waiting(
                hook.pipeline(self.pipeline, self.overrides, connections),
                until=self.until,
                lag_at_most=self.lag_at_most,
                by=self.by,  # type: ignore[arg-type]
                idle_timeout=self.idle_timeout,
            )

        return await asyncio.to_thread(opened)
