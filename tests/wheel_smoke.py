"""A new user's first ten lines: two processes, one hit. `python wheel_smoke.py`."""

import multiprocessing

from shmcache import SyncCache


def worker(answers):
    with SyncCache.open("smoke") as cache:
        answers.put(cache.get_or_set("answer", lambda: 41, ttl=60))


if __name__ == "__main__":
    with SyncCache.open("smoke") as cache:
        assert cache.get_or_set("answer", lambda: 42, ttl=60) == 42
        answers = multiprocessing.get_context("spawn").Queue()
        process = multiprocessing.get_context("spawn").Process(
            target=worker, args=(answers,)
        )
        process.start()
        assert answers.get(timeout=20) == 42  # it did not compute
        process.join()
    print("a hit that another process filled")
