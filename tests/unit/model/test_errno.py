"""Errnos by name and number."""

from __future__ import annotations

import errno

import pytest

from chaosorca.model.errno import ERRNO_NAMES, check_errno, errno_name
from chaosorca.model.errors import InvalidArgument


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("EACCES", "EACCES"),
        ("eacces", "EACCES"),
        ("Enoent", "ENOENT"),
        (" EIO ", "EIO"),
        ("E2BIG", "E2BIG"),
        ("EWOULDBLOCK", "EAGAIN"),
        ("ewouldblock", "EAGAIN"),
        ("EDEADLOCK", "EDEADLK"),
        ("ENOTSUP", "EOPNOTSUPP"),
        ("EHWPOISON", "EHWPOISON"),
    ],
)
def test_a_name_is_found_in_any_case_and_by_its_aliases(given: str, name: str) -> None:
    assert check_errno(given) == name


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("EACESS", "did you mean 'EACCES'"),
        ("EACCESS", "did you mean 'EACCES'"),
        ("enoentt", "did you mean 'ENOENT'"),
        ("ENOSP", "'ENOSPC'"),
        ("ERESTARTSYS", "did you mean 'ERESTART'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_names(given: str, hint: str) -> None:
    with pytest.raises(InvalidArgument, match=hint) as caught:
        check_errno(given)
    assert str(caught.value).startswith(f"error {given!r} is not a Linux errno")


@pytest.mark.parametrize("given", ["", " ", "13", "-13", "-EACCES", "E", "nonsense!", "EACCES,EIO", "0"])
def test_a_value_that_is_not_a_name_is_refused(given: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a Linux errno"):
        check_errno(given)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (1, "EPERM"),
        (2, "ENOENT"),
        (11, "EAGAIN"),
        (13, "EACCES"),
        (38, "ENOSYS"),
        (95, "EOPNOTSUPP"),
        (110, "ETIMEDOUT"),
        (133, "EHWPOISON"),
        (512, "ERESTARTSYS"),
        (513, "ERESTARTNOINTR"),
        (514, "ERESTARTNOHAND"),
        (515, "ENOIOCTLCMD"),
        (516, "ERESTART_RESTARTBLOCK"),
        (0, "unknown:0"),
        (41, "unknown:41"),
        (58, "unknown:58"),
        (134, "unknown:134"),
        (511, "unknown:511"),
        (517, "unknown:517"),
        (1000, "unknown:1000"),
    ],
)
def test_a_number_has_its_name_or_is_unknown(number: int, name: str) -> None:
    assert errno_name(number) == name


def test_the_table_agrees_with_the_c_library_of_linux() -> None:
    differing = {number: name for number, name in ERRNO_NAMES.items() if getattr(errno, name, number) != number}
    assert differing == {}
    assert {name for number, name in errno.errorcode.items() if number not in ERRNO_NAMES} == set()
