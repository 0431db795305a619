"""Addresses of PostgreSQL servers as people have them, turned into libpq's parameters; no password gets into a message.

Read are libpq's own two forms, and URLs of other libraries: SQLAlchemy (`postgresql+psycopg2://`), JDBC
(`jdbc:postgresql://`), Prisma (`?schema=public&pgbouncer=true`). A password may hold `@`, `/` and `:` unescaped.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any
from urllib.parse import parse_qsl, unquote

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from text2sql.errors import UserError

CONNECT_SECONDS = 5
FORM = "write it as postgresql://user@host:5432/database, special characters in the password as %40 for @"
#: A password may hold `@`, `/`, `:` and `?` as they are: the user's part ends at the last @, which hosts cannot have.
_URL = re.compile(
    r"(?:jdbc:)?(?P<scheme>[a-z][a-z0-9]*)(?:\+\w+)?://"
    r"(?:(?P<user>[^:/?]*)(?::(?P<password>.*))?@)?(?P<hosts>[^@?]*)(?:\?(?P<query>.*))?",
    re.IGNORECASE | re.DOTALL,
)
#: parameters of JDBC's URLs by libpq's name for them
_RENAMED = {"applicationname": "application_name", "logintimeout": "connect_timeout"}
_SCHEMAS = ("schema", "currentschema")


@dataclasses.dataclass(frozen=True)
class Address:
    """`parameters` are libpq's; `schemas` are the only ones to be shown (all, if there are none)."""

    parameters: dict[str, Any]
    schemas: tuple[str, ...] = ()
    #: sentences on parameters of the address that have no meaning here
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Host and port, for messages."""
        return f"{self.parameters.get('host') or 'the local server'}:{self.parameters.get('port') or 5432}"


def is_dsn(place: str) -> bool:
    """Whether this is the address of a server rather than a path: a URL, or libpq's `key=value` pairs."""
    return bool(_URL.match(place)) or any(
        word.startswith(("host=", "dbname=", "service=", "hostaddr=")) for word in place.split()
    )


def parse_dsn(dsn: str) -> Address:
    """The parameters in an address.

    Raises:
        UserError: it is no address of a PostgreSQL server; nothing of it is quoted but the scheme.
    """
    url = _URL.fullmatch(dsn.strip())
    if url and url["scheme"].lower() not in ("postgres", "postgresql"):
        remedy = "give the tables as --schema FILE: its CREATE TABLE statements are read in that dialect too"
        raise UserError(f"only PostgreSQL is reached by --dsn, not {url['scheme']}", remedy)
    try:
        parameters: dict[str, Any] = dict(conninfo_to_dict(f"postgresql://{url['hosts']}" if url else dsn))
    except psycopg.ProgrammingError:  # its message quotes the address, password included
        raise UserError("the DSN cannot be read", FORM) from None
    if url is None:
        return Address(parameters)
    if not re.fullmatch(r"[\d,]*", parameters.get("port", "")):  # `//me:password/database`: no message may show it
        raise UserError("the DSN cannot be read", FORM)
    parameters |= {name: unquote(url[name]) for name in ("user", "password") if url[name]}
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    schemas: list[str] = []
    unknown = []
    for name, value in parse_qsl(url["query"] or "", keep_blank_values=True):
        key = _RENAMED.get(name.lower(), name)
        if name.lower() in _SCHEMAS:
            schemas += [schema.strip() for schema in value.split(",") if schema.strip()]
        elif name.lower() == "ssl" and value.lower() in ("true", ""):
            parameters["sslmode"] = "require"
        elif key in known:
            parameters[key] = value
        else:
            unknown.append(name)
    notes = (f"passed over in the DSN: {', '.join(unknown)}",) if unknown else ()
    return Address(parameters, tuple(schemas), notes)


def connect_server(address: Address) -> psycopg.Connection:
    """An autocommitting connection. It sends no settings at its start: poolers (PgBouncer) refuse those.

    Raises:
        UserError: the server is not reached, or the role not let in.
    """
    parameters = {"connect_timeout": CONNECT_SECONDS, "application_name": "text2sql", **address.parameters}
    parameters["client_encoding"] = "UTF8"  # whatever the database's is, PGCLIENTENCODING says, or the DSN
    try:
        # no prepared statements: behind a pooler, the next transaction may be another session's
        return psycopg.connect(**parameters, autocommit=True, prepare_threshold=None)
    except psycopg.ProgrammingError:
        raise UserError("the DSN cannot be read", FORM) from None
    except psycopg.OperationalError as error:
        raise _refusal(address, str(error).strip()) from None


def _refusal(address: Address, message: str) -> UserError:
    """What a failed connection means; the server's words only where they cannot hold the password."""
    place = address.place
    password = str(address.parameters.get("password") or "")
    if "password" in message or "authentication" in message or "no pg_hba.conf" in message:
        role = address.parameters.get("user") or "this user"
        remedy = "mend the password or role: PGPASSWORD or ~/.pgpass hold it too"
        return UserError(f"{place} does not let {role} in", remedy)
    if "does not exist" in message:
        return UserError(f"{place}: {message.rpartition('FATAL:')[2].strip()}", "mend the DSN")
    reason = "" if password and password in message else f": {message.splitlines()[-1].strip()}"
    return UserError(f"{place} cannot be reached{reason}", "check host, port and that the server runs")
