"""Settings: sizes, and that each wrong one is named."""

import pytest

from shmcache import CacheConfig, ConfigError, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64MiB", 64 << 20),
        ("1 GB", 1 << 30),
        ("1.5K", 1536),
        ("4096", 4096),
        (4096, 4096),
    ],
)
def test_size_forms_become_bytes(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "x", "-1MiB", "0", "64 mib", "1e9", True, 0, "129TiB", "9" * 400, 10**400],
)
def test_size_of_wrong_form_is_named(text):
    with pytest.raises(ConfigError, match="l1_size"):
        parse_size(text, "l1_size")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("name", ""),
        ("name", "a/b"),
        ("name", "../x"),
        ("name", "a~1"),
        ("size_bytes", 0),
        ("size_bytes", -1),
        ("size_bytes", 2**64),
        ("app", "a b"),
        ("codec", "pickle"),
        ("l2_deadline", 0),
        ("hard_timeout", -1),
        ("lease_life", 1.0),
        ("jitter", 1.5),
        ("record_bytes", 0),
    ],
)
def test_setting_out_of_range_is_named(setting, value):
    settings = {"name": "n"} | {setting: value}
    with pytest.raises(ConfigError, match=f"^{setting}="):
        CacheConfig(**settings)
