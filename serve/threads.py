"""Work that may go on when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

WORK = "twinserve-work"


async def in_thread(work: Callable[[], T]) -> T:
    """The result of ``work``, run on a thread that does not keep the process from ending, as those of
    asyncio's pool do."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # the work goes on when nobody waits for it any more

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name=WORK, daemon=True)
    thread.start()
    result = await asyncio.wrap_future(future)
    # Until it has ended it holds ``work``, and with that a generation whose memory is waited for.
    thread.join()
    return result


def working() -> bool:
    """Whether a thread of ``in_thread`` still runs, waited for or not."""
    return any(thread.name == WORK for thread in threading.enumerate())
