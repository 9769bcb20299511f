"""Database URLs: which are taken, in which spelling, and how they are shown without their password.

No text of an error here holds any part of a URL but its scheme: a URL that cannot be parsed is the one whose password
is hardest to find.
"""

from __future__ import annotations

import os.path
import re
from itertools import takewhile
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, unquote_plus, unquote_to_bytes, urlencode

from dbqueue.errors import ImproperlyConfigured

MASK: Final = "********"
POSTGRES_SCHEME: Final = "postgresql+psycopg"
SQLITE_SCHEME: Final = "sqlite"
_POSTGRES_PORT: Final = "5432"

_POSTGRES_DRIVERS: Final = frozenset(
    {"", "psycopg", "psycopg_async", "psycopg2", "psycopg2cffi", "psycopgbinary", "asyncpg", "pg8000"}
)
_SQLITE_DRIVERS: Final = frozenset({"", "pysqlite", "aiosqlite"})
_CELERY_PREFIXES: Final = ("sqla+", "db+", "sqlalchemy+")

_OTHER_BROKERS: Final = frozenset(
    """
    redis rediss sentinel valkey amqp amqps pyamqp librabbitmq qpid sqs azurestoragequeues azureservicebus
    confluentkafka kafka gcpubsub mongodb mongodb+srv memory filesystem zookeeper consul etcd pyro slmq
    rpc cache cache+memory cache+memcached cache+pylibmc memcached cassandra elasticsearch couchbase couchdb
    couchbasedb arangodb cosmosdbsql dynamodb s3 gs azureblockblob file disabled django-db django-cache
    """.split()  # noqa: SIM905 - fifty quoted names would take fifty lines
)
"""Schemes of Celery's brokers and result stores that are no SQL database."""
_TRUE: Final = ("true", "yes", "on", "y", "t", "1")
"""As SQLAlchemy reads an option."""
_EXAMPLE: Final = "postgresql://user:password@host/database or sqlite:///jobs.db"

_URL: Final = re.compile(r"\s*[\w+.-]+://")
_HOST: Final = r"(?:\[[^]]*\]|[^][:,]*)(?::\d*)?"
_HOSTS: Final = re.compile(f"{_HOST}(?:,{_HOST})*")
_SECRET: Final = re.compile("password|passwd|pwd|secret|token|scram", re.IGNORECASE)
_PARAMETER: Final = re.compile(
    rf"(?P<start>\b\w*(?:{_SECRET.pattern})\w*\s*=\s*)(?:'(?:[^'\\]|\\.)*'(?=\s+\w+\s*=|\s*$)|.+)",
    re.IGNORECASE | re.DOTALL,
)
"""Of libpq's other form, `host=h password='p w'`: without right quotes a value goes on to the end."""


def mask_url(url: str) -> str:
    """`url` with its password replaced by asterisks, for logs and displays; any text may be given.

    Where the password ends cannot always be told, and hiding too much is the smaller harm.
    """
    start = _URL.match(url)
    if start is None:
        return _PARAMETER.sub(rf"\g<start>{MASK}", _mask_password(url))
    rest = _mask_password(url[start.end() :], of_url=True)
    location, question, query = rest.partition("?")
    location = _PARAMETER.sub(rf"\g<start>{MASK}", location)
    return start[0] + location + question + "&".join(map(_mask_option, query.split("&") if question else ()))


def _mask_password(text: str, *, of_url: bool = False) -> str:
    """From the first colon to the last @: a password may hold any character unquoted, and so may the user's name."""
    user, colon, after = text.partition(":")
    before, at, location = after.rpartition("@")
    if at:
        # Where the @ is one of a password among the options, the rest of that follows it.
        in_options = of_url and any(map(_SECRET.search, map(unquote_plus, re.findall("[?&]([^=&]*)=", before))))
        return f"{user}:{MASK}" if in_options else f"{user}:{MASK}@{location}"
    # Without an @ it is a port that follows the colon, or a password whose host is missing.
    if of_url and colon and not _HOSTS.fullmatch(re.split("[/?#]", text, maxsplit=1)[0]):
        return f"{user}:{MASK}"
    return text


def _mask_option(option: str) -> str:
    """One of a query's; what has no name is the rest of a password that holds an &."""
    name, equals, _ = option.partition("=")
    if equals and not _SECRET.search(unquote_plus(name)):
        return option
    return f"{name}={MASK}" if equals else MASK


def normalise_url(url: str) -> str:
    """`url` in the one spelling that the engine uses: `postgresql+psycopg://...` or `sqlite:///...`.

    Taken are `postgres://` and `postgresql://` with any driver's name (the driver here is psycopg), `sqlite://`, and
    each with Celery's prefixes `sqla+` and `db+`. User name and password are percent-encoded, so that one that holds
    `@`, `/`, `#` or `?` as it stands is understood. Several hosts, as in libpq's URLs, are those of a primary and its
    standbys: unless `target_session_attrs` says otherwise, connections go to the one that takes writes. A relative
    SQLite path stays relative.

    Raises ImproperlyConfigured that says what to give instead, and never shows more of the URL than its scheme.
    """
    if not isinstance(url, str):
        raise ImproperlyConfigured(f"a database URL is text, not {type(url).__name__}: give {_EXAMPLE}")
    stripped = _strip_prefix(url.strip())
    if not stripped.isprintable():
        raise ImproperlyConfigured("the database URL holds a control character or a line end: percent-encode it")
    scheme, separator, rest = stripped.partition("://")
    scheme = scheme.lower()
    if not separator:
        raise ImproperlyConfigured(_refusal_of_word(stripped))
    dialect, _, driver = scheme.partition("+")
    if dialect in ("postgres", "postgresql") and driver in _POSTGRES_DRIVERS:
        location = _primary_of_several(_quote_credentials(rest))
        _check_ports_of_query(location)
        return f"{POSTGRES_SCHEME}://{location}"
    if dialect == "sqlite" and driver in _SQLITE_DRIVERS:
        return f"{SQLITE_SCHEME}://{_check_sqlite(rest)}"
    raise ImproperlyConfigured(_refusal(scheme))


def same_database(a: str, b: str) -> bool:
    """Whether two URLs name the same database: host, port and name, or the same SQLite file.

    User, driver and options do not matter. Raises ImproperlyConfigured as `normalise_url` does.
    """
    return _identity(normalise_url(a)) == _identity(normalise_url(b))


def _strip_prefix(url: str) -> str:
    for prefix in _CELERY_PREFIXES:
        if url[: len(prefix)].lower() == prefix:
            return url[len(prefix) :]
    return url


def _refusal_of_word(text: str) -> str:
    word = text.lower().rstrip(":/")
    if word in _OTHER_BROKERS:
        return _refusal(word)
    return f"this is no database URL (it has no ://): give {_EXAMPLE}"


def _refusal(scheme: str) -> str:
    dialect = scheme.partition("+")[0]
    if scheme in _OTHER_BROKERS or dialect in _OTHER_BROKERS:
        return (
            f"{scheme}:// is no database: dbqueue keeps jobs and results in the application's own SQL database, "
            f"so give its URL, such as {_EXAMPLE}"
        )
    if dialect in ("mysql", "mariadb"):
        return f"{dialect} is not supported yet: give {_EXAMPLE}"
    # What stands before :// is shown only where it can be nothing but a scheme.
    shown = f"{scheme}://" if re.fullmatch(r"[a-z][a-z0-9+.-]{0,40}", scheme) else "this"
    return f"{shown} is not a database URL that dbqueue knows: give {_EXAMPLE}"


def _quote_credentials(rest: str) -> str:
    credentials, host_and_path = _split_credentials(rest)
    host = re.split(r"[/?#]", host_and_path, maxsplit=1)[0]
    _check_port(host)
    if credentials is None:
        return host_and_path
    user, colon, password = credentials.partition(":")
    return f"{_requote(user)}{colon}{_requote(password)}@{host_and_path}"


def _split_credentials(rest: str) -> tuple[str | None, str]:
    """User and password, and what follows them, where the password may hold any character as it stands."""
    end = re.search(r"[/?#]", rest)
    authority = rest if end is None else rest[: end.start()]
    location = rest[len(authority) :]
    path, *queries = location.split("?")
    # No option of a query has an @ in its name: such a question mark is one of the password's.
    if "@" in authority and (more := list(takewhile(re.compile("[^=&]*@").match, queries))):
        at = "?".join([authority + path, *more]).rindex("@")
        return rest[:at], rest[at + 1 :]
    # A name of a database with an @ before a slash is no likely one: such an @ ends a password that holds a slash.
    if "@" in authority and not re.search(r"@[^/]*/", path):
        credentials, _, host = authority.rpartition("@")
        return credentials, host + location
    _, colon, after_colon = authority.partition(":")
    if not colon or authority.startswith("["):
        return None, rest
    # What follows the colon is a port, or it begins a password that holds a slash, `?` or `#`.
    searched = rest.partition("?")[0] if "@" in path else rest
    if "@" in searched and ("@" in path or not after_colon.isdigit()):
        at = searched.rindex("@")
        return rest[:at], rest[at + 1 :]
    return None, rest


def _primary_of_several(rest: str) -> str:
    """Several hosts, as libpq's URLs have them, as SQLAlchemy reads them; and of these the one that takes writes."""
    before_query, _, query = rest.partition("?")
    authority, slash, path = before_query.partition("/")
    credentials, at, authority = authority.rpartition("@")
    options = parse_qsl(query, keep_blank_values=True)
    if "," in authority:
        hosts = [_host_and_port(each) for each in authority.split(",")]
        options.append(("host", ",".join(host for host, _ in hosts)))
        options.append(("port", ",".join(port or _POSTGRES_PORT for _, port in hosts)))
        authority = ""
    elif "," not in ",".join(value for name, value in options if name == "host"):
        return rest  # SQLAlchemy has a form of its own, too: ?host=a:5432&host=b:5432
    if not any(name == "target_session_attrs" for name, _ in options):
        options.append(("target_session_attrs", "read-write"))
    return f"{credentials}{at}{authority}{slash}{path}?{urlencode(options, safe='/,')}"


def _requote(text: str) -> str:
    return quote(unquote_to_bytes(text), safe="")


def _check_port(host: str) -> None:
    if "," in host:
        for each in host.split(","):
            _check_port(each)
        return
    after_address = host.rpartition("]")[2] if host.startswith("[") else host
    if not _is_port(after_address.partition(":")[2]):
        raise ImproperlyConfigured(
            "the port in the database URL is no number from 1 to 65535; if it is a part of the password, "
            "percent-encode that (urllib.parse.quote)"
        )


def _check_ports_of_query(location: str) -> None:
    """Those of `?port=5433` and `?host=a,b&port=5432,5433`; whether they fit the hosts is seen where they are read."""
    options = parse_qsl(location.partition("?")[2], keep_blank_values=True)
    if not all(_is_port(port) for name, value in options if name == "port" for port in value.split(",")):
        raise ImproperlyConfigured("the option `port` of the database URL is no number from 1 to 65535")


def _is_port(text: str) -> bool:
    """Whether it can be the number of a port; the default one is the empty text, as in libpq."""
    return not text or (text.isascii() and text.isdigit() and 0 < int(text) < 2**16)


def _check_sqlite(rest: str) -> str:
    if rest and not rest.startswith(("/", "?")):
        raise ImproperlyConfigured(
            "a SQLite URL has three slashes before a relative path (sqlite:///jobs.db) and four before an absolute one"
        )
    return rest


def _identity(url: str) -> tuple[str, ...]:
    scheme, _, rest = url.partition("://")
    before_query, _, query = rest.partition("?")
    pairs = parse_qsl(query)
    options = dict(pairs)
    if scheme == SQLITE_SCHEME:
        name = sqlite_name(url)
        return SQLITE_SCHEME, ":memory:" if name is None else os.path.realpath(name)
    credentials, _, location = before_query.rpartition("@")
    host_and_port, _, name = location.partition("/")
    host, port = _host_and_port(host_and_port)
    host, port = options.get("host", host), options.get("port", port)
    if len(several := [_host_and_port(value) for option, value in pairs if option == "host"]) > 1:
        # SQLAlchemy's own form, ?host=a:5432&host=b:5432.
        host, port = (",".join(each) for each in zip(*((a, b or _POSTGRES_PORT) for a, b in several), strict=True))
    user = unquote(credentials.partition(":")[0])
    database = options.get("dbname") or unquote(name) or options.get("user") or user
    return POSTGRES_SCHEME, _host_name(host), port or _POSTGRES_PORT, database


def _host_and_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        address, _, after = text[1:].partition("]")
        return address, after.lstrip(":")
    host, _, port = text.partition(":")
    return host, port


def _host_name(host: str) -> str:
    host = unquote(host).lower()
    return "localhost" if host in ("127.0.0.1", "::1") else host


def is_sqlite_uri(url: str) -> bool:
    """Whether a file's name is in SQLite's own form, `file:jobs.db?uri=true`: without the option it is any name."""
    name, options = _sqlite_parts(url)
    return name.startswith("file:") and options.get("uri", "").lower() in _TRUE


def sqlite_name(url: str) -> str | None:
    """The name of the file in a SQLite URL, with each %20 and so on read once; None for a database in memory.

    SQLite's own forms are file:NAME, file:/NAME, file:///NAME and file://localhost/NAME. Raises ImproperlyConfigured
    for a host that is another, as SQLite refuses it, and for a name that no file can have.
    """
    name, options = _sqlite_parts(url)
    if is_sqlite_uri(url):
        name = name.removeprefix("file:").partition("#")[0]
        if name.startswith("//"):
            host, slash, rest = name[2:].partition("/")
            if host not in ("", "localhost"):
                raise ImproperlyConfigured(
                    "the database URL names another host than this one: file:///NAME is a SQLite file here"
                )
            name = slash + rest
        if options.get("mode") == "memory" or options.get("vfs") == "memdb":
            return None
    name = unquote(name)
    if "\0" in name:
        raise ImproperlyConfigured("the name of the SQLite file in the database URL has a NUL (%00), which no name has")
    return None if name in ("", ":memory:") else name


def _sqlite_parts(url: str) -> tuple[str, dict[str, str]]:
    """The name as it is written, and the options."""
    location, _, query = url.partition("://")[2].partition("?")
    return location[1:], dict(parse_qsl(query))
