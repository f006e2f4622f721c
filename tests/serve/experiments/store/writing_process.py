"""Puts responses and feedback until it is killed; prints the number of each feedback that was taken."""

from __future__ import annotations

import asyncio
import sys
from itertools import count
from pathlib import Path

from serve.experiments.store.store import Store
from tests.serve.experiments.store.samples import feedback, served


async def write(store: Store, first: int, most: int) -> None:
    for number in count(first) if most == 0 else range(first, first + most):
        store.put(served(number))
        await store.put_durably(feedback(number))
        print(number, flush=True)


if __name__ == "__main__":
    url, folder, first, most = sys.argv[1:]
    opened = Store.open(url, Path(folder))
    print("open", flush=True)
    asyncio.run(write(opened, int(first), int(most)))
    opened.close()
