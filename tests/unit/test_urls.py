"""URLs: taken, refused, compared and masked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from urllib.parse import quote, quote_plus, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dbqueue.errors import ImproperlyConfigured
from dbqueue.store.engine import Access, make_async_task_engine, make_engine, make_task_engine
from dbqueue.urls import mask_url, normalise_url, same_database


@pytest.mark.parametrize(
    ("given_url", "normal"),
    [
        ("postgresql://localhost/app", "postgresql+psycopg://localhost/app"),
        ("postgres://u:p@h:5433/app?sslmode=require", "postgresql+psycopg://u:p@h:5433/app?sslmode=require"),
        ("  PostgreSQL+Psycopg2://u@h/app\n", "postgresql+psycopg://u@h/app"),
        ("postgresql+asyncpg://h/app", "postgresql+psycopg://h/app"),
        ("sqla+postgresql://h/app", "postgresql+psycopg://h/app"),
        ("SQLA+postgresql://h/app", "postgresql+psycopg://h/app"),
        ("db+postgresql+psycopg2://h/app", "postgresql+psycopg://h/app"),
        ("postgresql://", "postgresql+psycopg://"),
        ("postgresql:///app", "postgresql+psycopg:///app"),
        ("postgresql://[::1]:5432/app", "postgresql+psycopg://[::1]:5432/app"),
        ("postgresql://u:p@[::1]/app", "postgresql+psycopg://u:p@[::1]/app"),
        ("postgresql://u@/app?host=/run/postgresql", "postgresql+psycopg://u@/app?host=/run/postgresql"),
        (
            "postgresql://u:p@a,b:5433/app@1?connect_timeout=3",
            "postgresql+psycopg://u:p@/app@1?connect_timeout=3&host=a,b&port=5432,5433&target_session_attrs=read-write",
        ),
        (
            "postgresql://a,[::1]:5433/app?target_session_attrs=any",
            "postgresql+psycopg:///app?target_session_attrs=any&host=a,%3A%3A1&port=5432,5433",
        ),
        (
            "postgresql:///app?host=/run/a,/run/b",
            "postgresql+psycopg:///app?host=/run/a,/run/b&target_session_attrs=read-write",
        ),
        (
            "postgresql://u@/app?host=a:5432&host=b:5433",
            "postgresql+psycopg://u@/app?host=a%3A5432&host=b%3A5433&target_session_attrs=read-write",
        ),
        ("postgresql://u:p%40x@h/app", "postgresql+psycopg://u:p%40x@h/app"),
        ("postgresql://h:5432/app?user=a@b", "postgresql+psycopg://h:5432/app?user=a@b"),
        ("postgresql://u:p@h/d@b", "postgresql+psycopg://u:p@h/d@b"),
        ("sqlite:///jobs.db", "sqlite:///jobs.db"),
        ("sqlite:////var/jobs.db", "sqlite:////var/jobs.db"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqla+sqlite:///jobs.db", "sqlite:///jobs.db"),
        ("db+sqlite:///jobs.db", "sqlite:///jobs.db"),
        ("sqlite+aiosqlite:///jobs.db", "sqlite:///jobs.db"),
    ],
)
def test_spellings(given_url: str, normal: str) -> None:
    assert normalise_url(given_url) == normal
    assert normalise_url(normal) == normal


@pytest.mark.parametrize(
    "password",
    ["p@ss", "a/b", "a#b", "a?b", "x/y@z", "%", "100%zz", "a:b", "ü ", "@", "/", "a%2Fb", "a@b?c", "a@b/c?d", "@?@?x"],
)
def test_passwords_with_special_characters(password: str) -> None:
    normal = normalise_url(f"postgresql://user:{password}@host:5432/app")
    quoted = normal.removeprefix("postgresql+psycopg://user:").removesuffix("@host:5432/app")
    assert unquote(quoted) == unquote(password)
    assert not set("@/#?:") & set(quoted)
    assert normalise_url(normal) == normal


@given(st.text())
def test_normalising_raises_nothing_else_and_is_stable(rest: str) -> None:
    try:
        normal = normalise_url("postgresql://" + rest)
    except ImproperlyConfigured:
        return
    assert normalise_url(normal) == normal


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://:hunter2@localhost:6379/0", "redis:// is no database.*postgresql://"),
        ("rediss://u:hunter2@h", "rediss:// is no database"),
        ("amqp://guest:hunter2@localhost//", "amqp:// is no database"),
        ("pyamqp://guest:hunter2@localhost//", "pyamqp://"),
        ("sqs://key:hunter2@", "sqs://"),
        ("cache+memcached://hunter2", "cache"),
        ("rpc://", "rpc://"),
        ("rpc", "rpc:// is no database"),
        ("django-db", "is no database"),
        ("db+mysql://u:hunter2@h/d", "mysql is not supported yet"),
        ("mysql+pymysql://u:hunter2@h/d", "mysql is not supported yet"),
        ("mariadb://h/d", "mariadb is not supported yet"),
        ("oracle://u:hunter2@h/d", "oracle:// is not a database URL that dbqueue knows"),
        ("postgresql+hunter://u:hunter2@h/d", "not a database URL that dbqueue knows"),
        ("u:hunter2 is it://h", "this is not a database URL"),
        ("host=h password=hunter2", "no database URL"),
        ("hunter2", "no database URL"),
        ("", "no database URL"),
        ("sqlite:jobs.db", "no database URL"),
        ("sqlite://jobs.db", "three slashes"),
        ("postgresql://u:hunter2@h:port/d", "the port"),
        ("postgresql://u:hunter2@h:99999/d", "the port"),
        ("postgresql://u:hunter2@h:65536/d", "the port"),
        ("postgresql://u:hunter2@h:0/d", "the port"),
        ("postgresql://h:hunter2/d", "the port"),
        ("postgresql://u:hunter2@a,b:port/d", "the port"),
        ("postgresql://u:hunter2@h/d?port=abc", "the option `port`"),
        ("postgresql://u:hunter2@h/d?port=-1", "the option `port`"),
        ("postgresql://u:hunter2@/d?host=a,b&port=5432,65536", "the option `port`"),
        ("postgresql://u:hunter2\n@a/d", "control character"),
        ("postgresql://u:hunter2\ud800@a/d", "control character"),
    ],
)
def test_refusals_say_what_to_give_and_show_no_password(url: str, reason: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=reason) as caught:
        normalise_url(url)
    assert "hunter2" not in str(caught.value)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="not NoneType"):
        normalise_url(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h/d?port=1&port=2",
        "postgresql:///d?host=a,b&port=1",
        "postgresql:///d?host=a&host=b:x",
        "postgresql:///d?host=a&host=b:1&port=2",
        "postgresql://h/d?cursor_factory=1",
        "postgresql://h/d?row_factory=1",
        "postgresql://h/d?context=1",
        "postgresql://h/d?autocommit=1",
        "postgresql://h/d?prepare_threshold=1",
        "postgresql://h/d?conninfo=host=x",
        "postgresql://h/d?no_such_option=1",
        "postgresql://h/d?sslmode=disable&sslmode=require",
        "postgresql://h/d?connect_timeout=soon",
        "postgresql://h/d?connect_timeout=-1",
        "postgresql://h/d?connect_timeout=2.5",
        "postgresql://h/d?connect_timeout=3601",
        "sqlite:///jobs.db?timeout=soon",
        "sqlite:///jobs.db?check_same_thread=perhaps",
        "sqlite:///file:jobs.db?uri=perhaps",
    ],
)
@pytest.mark.parametrize("make", [make_engine, make_task_engine, make_async_task_engine])
def test_options_that_cannot_be_read(url: str, make: Callable[[Access], object]) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"the database URL cannot be read: \w"):
        make(Access(url=normalise_url(url), pool_size=1, connect_timeout=1))


@pytest.mark.parametrize(
    ("url", "other", "same"),
    [
        ("postgresql://h/app", "sqla+postgres://u:p@H:5432/app", True),
        ("postgresql://h/app", "postgresql://h:5433/app", False),
        ("postgresql://h/app", "postgresql://h/other", False),
        ("postgresql://h/app", "postgresql://g/app", False),
        ("postgresql://localhost/app", "postgresql://127.0.0.1/app", True),
        ("postgresql://[::1]:5432/app", "postgresql://localhost/app", True),
        ("postgresql:///app?host=/run&port=1", "postgresql://u@:1/app?host=/run", True),
        ("postgresql://u@h", "postgresql://h/u", True),
        ("postgresql://u@h?user=other", "postgresql://h/other", True),
        ("postgresql://h/app?dbname=other", "postgresql://h/other", True),
        ("postgresql://h/app?dbname=other", "postgresql://h/app", False),
        ("postgresql://a,b/app", "postgresql://u@a:5432,b:5432/app?target_session_attrs=primary", True),
        ("postgresql://a,b/app", "postgresql://a,c/app", False),
        ("postgresql://a,b:5433/app", "postgresql:///app?host=a&host=b:5433", True),
        ("postgresql:///app?host=a:5432&host=b:5432", "postgresql:///app?host=c:5432&host=b:5432", False),
        ("postgresql://h/app", "sqlite:///app", False),
        ("sqlite:///jobs.db", "db+sqlite:////{cwd}/jobs.db", True),
        ("sqlite:///jobs.db", "sqlite:///other.db", False),
        ("sqlite:///jobs.db?timeout=5", "sqlite:///file:jobs.db?uri=true", True),
        ("sqlite:///jobs.db", "sqlite:///file://{cwd}/jobs%2Edb?uri=on", True),
        ("sqlite:///jobs.db", "sqlite:///file:jobs.db", False),
        ("sqlite:///a%2523b.db", "sqlite:///file:a%2523b.db?uri=true", True),
        ("sqlite:///a%20b.db", "sqlite:///a b.db", True),
        ("sqlite:///jobs.db", "sqlite:///file:jobs.db?uri=true&mode=memory", False),
        ("sqlite://", "sqlite:///:memory:", True),
        ("sqlite://", "sqlite:///file::memory:?uri=1", True),
    ],
)
def test_the_same_database(url: str, other: str, same: bool) -> None:
    other = other.replace("file://{cwd}", f"file://{os.getcwd()}").replace("{cwd}", os.getcwd().lstrip("/"))
    assert same_database(url, other) is same
    assert same_database(other, url) is same


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:hunter2@h/d", "postgresql://u:********@h/d"),
        ("postgresql://u:hun@te/r2@h/d", "postgresql://u:********@h/d"),
        ("postgresql://u/x:hun ter2@h/d", "postgresql://u/x:********@h/d"),
        ("redis://:hunter2@h/0", "redis://:********@h/0"),
        ("postgresql://u@server:hunter2@h/d", "postgresql://u@server:********@h/d"),
        ("postgresql://u:hunter2%40h/d", "postgresql://u:********"),
        ("postgresql://u:hunter2", "postgresql://u:********"),
        ("u:hunter2@h/d", "u:********@h/d"),
        ("postgresql:/u:hunter2@h/d", "postgresql:********@h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://a:5432,[::1]:5433/d", "postgresql://a:5432,[::1]:5433/d"),
        ("postgresql://h:5432/d?password=hunter2&x=1", "postgresql://h:5432/d?password=********&x=1"),
        ("postgresql://u@h:5432/d?x=1&password=hun@ter2&y=1", "postgresql://u@h:********"),
        ("postgresql://h/d?sslpassword=hunter2", "postgresql://h/d?sslpassword=********"),
        ("postgresql://h/d?password=hun ter2;x&y=1", "postgresql://h/d?password=********&y=1"),
        ("postgresql://h/d?password='hun' ter2&hunter&y=1", "postgresql://h/d?password=********&********&y=1"),
        ("postgresql://h/d?pass%77ord=hunter2", "postgresql://h/d?pass%77ord=********"),
        ("postgresql://h/d?PassWord=hunter2", "postgresql://h/d?PassWord=********"),
        ("host=h password='hunter 2' dbname=d", "host=h password=******** dbname=d"),
        ("host=h password = 'hun ter''2' dbname=d", "host=h password = ********"),
        ("[%(asctime)s: %(levelname)s] proj:app", "[%(asctime)s: %(levelname)s] proj:app"),
        ("sqlite:///jobs.db", "sqlite:///jobs.db"),
        ("", ""),
    ],
)
def test_masks(url: str, shown: str) -> None:
    assert mask_url(url) == shown


# What makes a password hard to find, and characters that are none of a URL's own.
awkward = st.text(
    alphabet=st.sampled_from("@:/?#%& ='\\+[],;ü€\U0001f40d\nxX") | st.characters(exclude_categories=["Cs"])
)
secrets = st.tuples(awkward, awkward).map("hunter2".join)
encoded = st.sampled_from([lambda text: text, quote, lambda text: quote(text, safe=""), quote_plus])
schemes = st.sampled_from(["postgresql://", "sqla+postgres://", " PostgreSQL+asyncpg://", "redis://", "x:/", ""])


@given(
    schemes, awkward, secrets, encoded, st.sampled_from(["h/d", "h", "a:1,b:2/d?x=y", "[::1]:5432/d", "/d?host=/run"])
)
def test_no_password_is_shown(
    scheme: str, user: str, password: str, spelt: Callable[[str], str], location: str
) -> None:
    assert "hunter2" not in mask_url(f"{scheme}{user}:{spelt(password)}@{location}")


@given(
    st.sampled_from(["postgresql://h/d?", "postgresql://u@h:1/d?x=y&", "postgresql://u:p@h/d?", "postgresql:///d?"]),
    st.sampled_from(["password", "sslpassword", "passwd", "pass%77ord", "scram_client_key"]),
    secrets,
    encoded,
)
def test_no_password_of_a_query_is_shown(before: str, name: str, password: str, spelt: Callable[[str], str]) -> None:
    # Unquoted, what stands behind an & and before an = is the name of another option.
    text = spelt(password if spelt(" &") != " &" else password.replace("=", ""))
    assert "hunter2" not in mask_url(f"{before}{name}={text}&options=-c")


@given(secrets, st.booleans())
def test_no_password_of_libpq_s_other_form_is_shown(password: str, quoted: bool) -> None:
    text = "'" + password.replace("\\", "\\\\").replace("'", "\\'") + "'" if quoted else password
    assert "hunter2" not in mask_url(f"host=h user=u@server password={text} dbname=d")


@given(schemes, awkward, secrets, encoded)
def test_no_refusal_shows_a_password(scheme: str, user: str, password: str, spelt: Callable[[str], str]) -> None:
    with contextlib.suppress(ImproperlyConfigured):
        # What is taken is shown as it was given, or in the one spelling.
        assert "hunter2" not in mask_url(normalise_url(f"{scheme}{user}:{spelt(password)}@h/d"))
    for end in ("", "@h:x/d"):
        assert "hunter2" not in refusal(f"{scheme}{user}:{spelt(password)}{end}")


@given(awkward, secrets, st.sampled_from(["h/d", "a:1,b:2/d", "/d?host=/run", "h?no=1", "h/d?sslmode=a&sslmode=b"]))
@example("u", "a@b?hunter2", "h/d?no=1")
@example("u", "@?c=d&hunter2=", "h/d")
def test_no_refusal_of_an_engine_shows_a_password(user: str, password: str, location: str) -> None:
    def engine(url: str) -> None:
        make_engine(Access(url=normalise_url(url), pool_size=1, connect_timeout=1)).dispose()

    assert "hunter2" not in refusal(f"postgresql://{user}:{password}@{location}", engine)


def refusal(url: str, take: Callable[[str], object] = normalise_url) -> str:
    try:
        take(url)
    except ImproperlyConfigured as error:
        return str(error)
    return ""


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(ImproperlyConfigured, match="NUL"):
        same_database("sqlite:///a%00b.db", "sqlite:///jobs.db")
