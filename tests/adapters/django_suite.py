"""Django's own tests of its caches, run with our backend: `python -m
tests.adapters.django_suite`.

They come with Django's sdist, of the version that is installed here. What does not pass
must be what `EXPECTED` explains, and what that explains must not pass.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import django

from tests.helpers import ROOT

WHERE = ROOT / "build" / "django"
PICKLE = "asks for an object that needs pickle, which executes what it reads"
COUNT = "asks for culling by number of entries: ours is bounded in bytes"
EXPECTED = {
    "test_add_fail_on_pickleerror": "asks for pickle's own error; ours is refused too",
    "test_set_fail_on_pickleerror": "asks for pickle's own error; ours is refused too",
    "test_cache_read_for_model_instance": PICKLE,
    "test_cache_read_for_model_instance_with_deferred": PICKLE,
    "test_cache_write_for_model_instance_with_deferred": PICKLE,
    "test_data_types": "stores a function and a class; its other types pass",
    "test_cull": COUNT,
    "test_zero_cull": COUNT,
}
MODULE = """
from django.test import TestCase, override_settings

from cache import tests
from cache.tests import BaseCacheTests, caches_setting_for_tests

OURS = {
    "BACKEND": "shmcache.adapters.django.ShmCache",
    "OPTIONS": {"size": "8MiB"},
}


@override_settings(CACHES=caches_setting_for_tests(**OURS, LOCATION="NAME"))
class Contract(BaseCacheTests, TestCase):
    pass


pages = override_settings(
    CACHES={
        "default": {**OURS, "LOCATION": "NAME-pages"},
        "prefix": {**OURS, "LOCATION": "NAME-pages", "KEY_PREFIX": "cacheprefix"},
        "other": {**OURS, "LOCATION": "NAME-other", "TIMEOUT": "1"},
    }
)


@pages
class Utils(tests.CacheUtils):
    pass


@pages
class Head(tests.CacheHEADTest):
    pass


@pages
class I18n(tests.CacheI18nTest):
    pass


@pages
class Middleware(tests.CacheMiddlewareTest):
    pass


@pages
class Templates(tests.TestWithTemplateResponse):
    pass


@pages
class Handler(tests.CacheHandlerTest):
    pass
"""


def main() -> int:
    suite = fetched()
    name = f"django-suite-{os.getpid()}"
    (suite / "cache" / "tests_shm.py").write_text(MODULE.replace("NAME", name))
    ran = subprocess.run(
        [sys.executable, "runtests.py", "--parallel=1", "cache.tests_shm"],
        cwd=suite,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    count = re.search(r"^Ran (\d+) tests", ran.stderr, re.MULTILINE)
    if count is None:
        print(ran.stdout, ran.stderr)
        return 1
    failed = set(re.findall(r"^(?:ERROR|FAIL): (\w+)", ran.stderr, re.MULTILINE))
    print(f"Django {django.get_version()}: {count[1]} tests with our backend")
    for test in sorted(failed | set(EXPECTED)):
        verdict = EXPECTED.get(test, "UNEXPECTED")
        passed = "" if test in failed else "PASSED, though it "
        print(f"  {test}: {passed}{verdict}")
    if failed == set(EXPECTED):
        return 0
    print(ran.stderr)
    return 1


def fetched() -> Path:
    """The `tests` of Django's sdist, once for each version."""
    version = django.get_version()
    suite = WHERE / f"django-{version}" / "tests"
    if not suite.is_dir():
        WHERE.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--no-build-isolation", "--no-binary", "django"),
                *("--dest", str(WHERE), f"django=={version}"),
            ],
            check=True,
        )
        (sdist,) = WHERE.glob(f"[dD]jango-{version}.tar.gz")
        with tarfile.open(sdist) as archive:
            archive.extractall(WHERE, filter="data")
    return suite


if __name__ == "__main__":
    sys.exit(main())
