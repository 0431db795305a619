"""Addresses of PostgreSQL servers as people have them, turned into libpq's parameters; no password gets into a message.

Read are libpq's own two forms, and URLs of other libraries: SQLAlchemy (`postgresql+psycopg2://`), JDBC
(`jdbc:postgresql://`), Prisma (`?schema=public&pgbouncer=true`). A password may hold `@`, `/` and `:` unescaped. What
an address leaves out, libpq takes from the environment (PGHOST, PGSSLMODE, a service file).
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any
from urllib.parse import unquote, unquote_plus

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from text2sql.errors import UserError

CONNECT_SECONDS = 5
FORM = "write it as postgresql://user@host:5432/database, special characters in the password as %40 for @"
#: A password may hold `@`, `/`, `:` and `?` as they are: the user's part ends at the last @, which hosts cannot have.
#: But behind a port and a path with parameters (`h:5432/shop?user=me@corp`), or in JDBC's form, there is none.
_URL = re.compile(
    r"\s*(?P<jdbc>jdbc:)?(?P<scheme>[a-z][a-z0-9]*)(?:\+\w+)?://"
    r"(?(jdbc)|(?:(?P<user>[^:/?[]*)(?::(?!\d+/[^@?]*\?\w+=)(?P<password>.*))?@)?)"
    r"(?P<hosts>[^@?]*)(?:\?(?P<query>.*))?",
    re.IGNORECASE | re.DOTALL,
)
#: names of PostgreSQL in URLs of libpq, Django and PHP
_SCHEMES = ("postgresql", "postgres", "postgis", "pgsql")
#: parameters of JDBC's URLs by libpq's name for them
_RENAMED = {"applicationname": "application_name", "logintimeout": "connect_timeout"}
#: libpq's names of parameters
PARAMETERS = frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())
_SCHEMAS = ("schema", "currentschema")
#: values of the parameter `ssl` that are none of libpq's `sslmode`
_SSL = {"true": "require", "": "require", "1": "require", "false": "prefer", "0": "prefer"}


@dataclasses.dataclass(frozen=True)
class Address:
    """`parameters` are libpq's; `schemas` are the only ones to be shown (all, if there are none)."""

    parameters: dict[str, Any] = dataclasses.field(repr=False)  # the password is one of them
    schemas: tuple[str, ...] = ()
    #: sentences on parameters of the address that have no meaning here
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Host and port, for messages, or the service that has them."""
        if service := self.parameters.get("service"):
            return f"service {service}"
        given, environment = self.parameters.get, os.environ.get
        host = given("host") or given("hostaddr") or environment("PGHOST") or "the local server"
        return f"{host}:{given('port') or environment('PGPORT') or 5432}"


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
    if url and url["scheme"].lower() not in _SCHEMES:
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
    schemas: list[str] = []
    unknown = []
    decode = unquote_plus if url["jdbc"] else unquote
    for part in filter(None, (url["query"] or "").split("&")):
        name, value = map(decode, part.partition("=")[::2])
        key = _RENAMED.get(name.lower(), name)
        if name.lower() in _SCHEMAS:
            schemas += [schema.strip() for schema in value.split(",") if schema.strip()]
        elif name.lower() == "ssl":
            parameters["sslmode"] = _SSL.get(value.lower(), value)
        elif key in PARAMETERS and value:
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
    parameters = {"fallback_application_name": "text2sql", **address.parameters}
    if "PGCONNECT_TIMEOUT" not in os.environ:
        parameters.setdefault("connect_timeout", CONNECT_SECONDS)
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
    reason = "" if password and password in message else ": " + message.partition("\n")[0]
    return UserError(f"{place} cannot be reached{reason}", "check host, port and that the server runs")
