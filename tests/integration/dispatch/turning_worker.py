"""A worker that is not started and turns from its queue and back; prints whether it consumes."""

from __future__ import annotations

import sys

from tests.servers import Gate
from workers import app, heartbeat


def main(port: int) -> None:
    """Leave the queue and take it again before the event loop has come round; many times."""
    with Gate(("127.0.0.1", port)) as gate:
        app.conf.broker_url = f"redis://127.0.0.1:{gate.port}/0"
        worker = app.WorkController(queues="US_EQ", pool_cls="prefork", concurrency=1)
        (step,) = (each for each in worker.steps if isinstance(each, heartbeat.Heartbeat))
        step._queues = ["US_EQ"]
        consumer = worker.consumer
        consumer.connection = app.connection_for_read()
        consumer.task_consumer = app.amqp.TaskConsumer(consumer.connection)

        def come_round() -> str:
            for callback in worker.hub._pop_ready():
                callback()
            return "takes" if consumer.task_consumer.consuming_from("US_EQ") else "takes nothing"

        for _ in range(20):
            for wanted in (False, True):
                step._listen(wanted)
            assert come_round() == "takes", "left last, taken first"
            for wanted in (False, True, False):
                step._listen(wanted)
            assert come_round() == "takes nothing", "taken last, left first"
            step._listen(True)
            assert come_round() == "takes"

        step._listen(False)
        come_round()
        gate.shut()
        step._listen(True)
        assert come_round() == "takes nothing", "its broker is away"
        gate.open()
        step._listen(True)
        assert come_round() == "takes", "not tried again"
    print("as wanted")


if __name__ == "__main__":
    main(int(sys.argv[1]))
