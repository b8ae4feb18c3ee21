"""Reading: whatever stands in a file, it is a value within limits or one clear line."""

import json
import os

import pytest

from zojax.errors import InputError
from zojax.reading import (
    MAX_DEPTH,
    is_file,
    open_regular,
    parse_json,
    read_bytes,
    read_json,
    validate,
)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (nested(MAX_DEPTH + 2), "nested deeper"),
        (nested(100_000), "nested deeper"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested deeper"),
        ("9" * 5_000, "5000 digits"),
        (str(1 << 64), "64 bits"),
        ("NaN", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ("1e999", "1e999 does not fit"),
        ('{"a": 1, "a": 2}', "'a' appears twice"),
        (r'"\ud800"', r"'\ud800' is half a character"),
        (r'{"\udfff": 1}', "half a character"),
        (b"\xff", "not UTF-8"),
        ("", "not JSON"),
        ('{"a": 1', "not JSON"),
    ],
)
def test_what_is_no_plain_json_is_one_line(text, reason):
    with pytest.raises(InputError, match=r"^x\.json: ") as refused:
        parse_json(text, "x.json")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_json_is_read_as_it_is():
    value = {"a": [1, -2.5, None, True, "é\U0001f600\u200d"], "b": {"c": {}}, "d": (1 << 64) - 1}
    assert parse_json(json.dumps(value), "x") == value
    assert parse_json(nested(MAX_DEPTH), "x")
    assert parse_json('\ufeff{"a": 1}'.encode(), "x") == {"a": 1}


def test_what_is_no_regular_file_is_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "large").write_bytes(bytes(11))
    cases = {
        "fifo": "not a regular file",
        "link": "not a regular file",
        "": "not a regular file",
        "absent": "No such file",
        "large": "11 bytes, more than 10",
        "n" * 300: "too long",
        "zero\0byte": "null byte",
    }
    for name, reason in cases.items():
        with pytest.raises(InputError, match=reason) as refused:
            read_bytes(tmp_path / name, most=10)
        assert "\0" not in str(refused.value)


def test_what_is_wrong_with_a_file_is_told_and_what_is_wrong_behind_it_is_left_as_it_is(tmp_path):
    (tmp_path / "file").write_bytes(b"ab")
    own = KeyError("the caller's own"), ValueError("the caller's own")
    for error in own:
        with pytest.raises(type(error)) as raised, open_regular(tmp_path / "file"):
            raise error
        assert raised.value is error
    with pytest.raises(InputError, match="cannot be read"), open_regular(tmp_path / "file"):
        raise OSError(5, "Input/output error")


def test_a_file_of_another_type_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[1]")
    with pytest.raises(InputError, match="does not contain a JSON object"):
        read_json(path)
    with pytest.raises(InputError, match=r"x: a\.0: .*\(it is 'one'\)"):
        validate(dict[str, list[int]], {"a": ["one"]}, "x")


def test_many_names_of_which_one_stands_twice_are_refused_at_once():
    text = "{" + "".join(f'"{i}":1,' for i in range(100_000)) + '"99999":1}'
    with pytest.raises(InputError, match="'99999' appears twice"):
        parse_json(text, "x")  # comparing each with each would take minutes


def test_a_name_that_is_too_long_is_one_line(tmp_path):
    with pytest.raises(InputError, match="too long"):
        is_file(tmp_path / ("n" * 300))
    assert not is_file(tmp_path / "absent")
