"""A process starts without Feast's checks and without collecting what it keeps."""

import subprocess
import sys

LOOK = """
import sys, time
if sys.argv[1] == "quick":
    from deploy.quick_start import leave_feast_unchecked
    leave_feast_unchecked()
began = time.process_time()
import feast
took_s = time.process_time() - began
try:
    feast.Entity(name="e", join_keys=7)
except Exception as error:
    print(type(error).__name__, took_s)
else:
    print("taken", took_s)
"""


def look(how: str) -> tuple[str, float]:
    command = [sys.executable, "-W", "ignore", "-c", LOOK, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    word, took_s = done.stdout.split()
    return word, float(took_s)


def test_a_worker_starts_without_feast_s_checks_and_others_keep_them() -> None:
    quick, checked = look("quick"), look("checked")
    assert checked[0] == "TypeCheckError"
    assert quick[0] != "TypeCheckError"
    assert quick[1] < 0.7 * checked[1]  # processor time, so that a busy machine does not matter


COLLECTS = """
import asyncio, gc
from contextlib import asynccontextmanager
from deploy.quick_start import start_quickly
start_quickly()
from ranker import serving
from streaming import wiring
told = [gc.isenabled()]
wiring._collect_rarely()
told.append(gc.isenabled())
gc.disable()

class Service:
    @asynccontextmanager
    async def running(self):
        told.append(gc.isenabled())
        yield

@asynccontextmanager
async def listening(*_):
    told.append(gc.isenabled())
    raise LookupError
    yield

serving._listening = listening
try:
    asyncio.run(serving._serve(Service(), None, None))
except LookupError:
    print(*told)
"""


def test_the_garbage_collector_rests_until_a_worker_works_and_a_ranker_serves() -> None:
    command = [sys.executable, "-W", "ignore", "-c", COLLECTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    worker, ranker = ("False", "True"), ("False", "True")
    assert done.stdout.split() == [*worker, *ranker]
